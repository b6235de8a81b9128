import { randomUUID } from 'node:crypto';
import { extname, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { errnoOf } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import type { Owner } from './holder.ts';
import type { ImageKey, KnownImage } from './images.ts';
import { type Layout, layoutOf } from './layout.ts';
import { Leases } from './leases.ts';
import { NameReader } from './name-reader.ts';
import type { StoreOptions } from './open.ts';
import { EXTRACTION, type Lease, type Mount, type SnapshotInfo, type Unsynced, type Usage } from './snapshotter.ts';
import { CLOSE_LIMIT, type OwnStore } from './store.ts';
import {
  deserializeError,
  type StoreAnswer,
  type StoreCall,
  type StoreFacts,
  type StoreMethod,
} from './store-messages.ts';

/** Milliseconds that `close` waits for the thread: the limit of the store's own `close`, and 5 s for a slow disk. */
const END_LIMIT = CLOSE_LIMIT + 5000;
/** If a call has no answer after so many milliseconds, the disk may hang, and nothing is read on this thread. */
const SLOW = 100;

const ALL_SYNCED: Unsynced = { own: 0, others: 0 };

type Result<Method extends StoreMethod> = Awaited<ReturnType<OwnStore[Method]>>;

/**
 * Opens the store on a separate thread (workers/store.ts). Calls of SQLite, renames and walks block for seconds on a slow
 * disk. The calling thread stays free, so that a worker can renew the locks of its jobs.
 * @throws UnpackError as `openSnapshotter`; STORE_FAILED if the machine has no more threads
 */
export async function openStoreThread(options: StoreOptions): Promise<OwnStore> {
  const session = randomUUID();
  const channel = new Channel({ ...options, session });
  const facts = await channel.opened;
  return new StoreOnThread({ ...options, session }, channel, facts, await layoutOf(facts));
}

/**
 * Sends each call to the thread. Leases are taken here, because they need no database. While the thread answers in time,
 * `has`, `keys`, `lookUpImage`, `viewMounts` and most calls of `unsynced` are answered here too: a job whose image is already
 * unpacked makes no other calls, and a message to the thread takes longer than the lookup.
 *
 * If the thread dies, its pending calls fail, and the next call starts a new thread.
 */
class StoreOnThread implements OwnStore {
  readonly root: string;
  readonly state: string;
  readonly type: OwnStore['type'];
  readonly rebase: boolean;
  readonly durable: boolean;
  readonly ownership: OwnStore['ownership'];
  readonly overlayXattrs: OwnStore['overlayXattrs'];
  readonly extraction = EXTRACTION;
  readonly marked = true;
  readonly collectedBy = 'unpackd';
  readonly #options: StoreOptions & { readonly session: string };
  readonly #layout: Layout;
  readonly #names: NameReader | undefined;
  readonly #leases: Leases;
  #channel: Channel;
  #closed: Promise<void> | undefined;

  constructor(
    options: StoreOptions & { readonly session: string },
    channel: Channel,
    facts: StoreFacts,
    layout: Layout,
  ) {
    this.root = facts.root;
    this.state = facts.root;
    this.type = facts.type;
    this.rebase = facts.rebase;
    this.durable = facts.durable;
    this.ownership = facts.ownership;
    this.overlayXattrs = facts.overlayXattrs;
    this.#options = options;
    this.#layout = layout;
    this.#channel = channel;
    this.#names = namesOf(facts.root, facts.durable, options.session);
    this.#leases = new Leases(facts.root);
  }

  under(): OwnStore {
    return this;
  }

  checkReference(): void {}

  async keepDocuments(): Promise<void> {}

  namesOf(): readonly string[] {
    return [];
  }

  stat(key: string): Promise<SnapshotInfo> {
    return this.#ask('stat', key);
  }

  async has(name: string): Promise<boolean> {
    return this.#lookUp((names) => names.has(name)) ?? this.#ask('has', name);
  }

  async keys(prefix: string): Promise<string[]> {
    return this.#lookUp((names) => names.keys(prefix)) ?? this.#ask('keys', prefix);
  }

  prepare(...args: Parameters<OwnStore['prepare']>) {
    return this.#ask('prepare', ...args);
  }

  view(...args: Parameters<OwnStore['view']>) {
    return this.#ask('view', ...args);
  }

  mounts(...args: Parameters<OwnStore['mounts']>) {
    return this.#ask('mounts', ...args);
  }

  async viewMounts(name: string): Promise<readonly Mount[]> {
    return this.#lookUp((names) => names.viewMounts(name, this.#layout)) ?? this.#ask('viewMounts', name);
  }

  commit(...args: Parameters<OwnStore['commit']>) {
    return this.#ask('commit', ...args);
  }

  /** Only files are used, so no thread is needed. */
  async lease(names: readonly string[], owner: Owner, needs?: Usage): Promise<Lease> {
    this.#requireOpen();
    return this.#leases.take(names, owner, needs);
  }

  remove(...args: Parameters<OwnStore['remove']>) {
    return this.#ask('remove', ...args);
  }

  adopt(...args: Parameters<OwnStore['adopt']>) {
    return this.#ask('adopt', ...args);
  }

  release(...args: Parameters<OwnStore['release']>) {
    return this.#ask('release', ...args);
  }

  update(...args: Parameters<OwnStore['update']>) {
    return this.#ask('update', ...args);
  }

  usage(...args: Parameters<OwnStore['usage']>) {
    return this.#ask('usage', ...args);
  }

  walk(...args: Parameters<OwnStore['walk']>) {
    return this.#ask('walk', ...args);
  }

  async unsynced(name: string): Promise<Unsynced> {
    return this.#lookUp((names) => (names.isSynced(name) ? ALL_SYNCED : undefined)) ?? this.#ask('unsynced', name);
  }

  sync(...args: Parameters<OwnStore['sync']>) {
    return this.#ask('sync', ...args);
  }

  mounted() {
    return this.#ask('mounted');
  }

  cleanup(...args: Parameters<OwnStore['cleanup']>) {
    return this.#ask('cleanup', ...args);
  }

  recordImage(...args: Parameters<OwnStore['recordImage']>) {
    return this.#ask('recordImage', ...args);
  }

  async lookUpImage(image: ImageKey): Promise<KnownImage | undefined> {
    const found = this.#lookUp((names) => [names.lookUpImage(image, this.#layout)] as const);
    return found === undefined ? this.#ask('lookUpImage', image) : found[0];
  }

  images() {
    return this.#ask('images');
  }

  document(...args: Parameters<OwnStore['document']>) {
    return this.#ask('document', ...args);
  }

  removeImage(...args: Parameters<OwnStore['removeImage']>) {
    return this.#ask('removeImage', ...args);
  }

  pinImage(...args: Parameters<OwnStore['pinImage']>) {
    return this.#ask('pinImage', ...args);
  }

  close(): Promise<void> {
    this.#closed ??= this.#end();
    return this.#closed;
  }

  /** `undefined` if the thread must answer instead. */
  #lookUp<T>(look: (names: NameReader) => T): T | undefined {
    if (this.#names === undefined || this.#closed !== undefined || this.#channel.waited >= SLOW) return undefined;
    try {
      return look(this.#names);
    } catch {
      // the thread waits for a locked file, and explains the error of a damaged one
      return undefined;
    }
  }

  async #ask<Method extends StoreMethod>(
    method: Method,
    ...args: Parameters<OwnStore[Method]>
  ): Promise<Result<Method>> {
    this.#requireOpen();
    if (!this.#channel.alive) this.#channel = new Channel({ ...this.#options, again: true });
    return this.#channel.ask(method, args);
  }

  #requireOpen(): void {
    if (this.#closed !== undefined) throw new UnpackError('SHUTTING_DOWN', `the snapshot store ${this.root} is closed`);
  }

  /** Does not wait longer than END_LIMIT for a disk that hangs. The next cleanup deletes what is left. */
  async #end(): Promise<void> {
    this.#names?.close();
    if (!this.#channel.alive) return;
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const limit = setTimeout(resolve, END_LIMIT);
    await Promise.race([this.#channel.ask('close', []).catch(() => {}), late]);
    clearTimeout(limit);
  }
}

/** `undefined` if the file cannot be read here; then the thread answers all calls. */
function namesOf(root: string, durable: boolean, session: string): NameReader | undefined {
  try {
    return new NameReader(root, durable, session);
  } catch {
    return undefined;
  }
}

interface Caller {
  readonly since: number;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * One thread, in the states opening → open → ended. It keeps the process alive only while a call waits for its answer.
 */
class Channel {
  /** @throws UnpackError as `openSnapshotter` */
  readonly opened: Promise<StoreFacts>;
  readonly #worker: Worker;
  readonly #opening = Promise.withResolvers<StoreFacts>();
  /** Oldest first. */
  readonly #callers = new Map<number, Caller>();
  #isOpen = false;
  #calls = 0;
  /** Why the thread has ended. */
  #ended: unknown;

  /** @throws UnpackError STORE_FAILED */
  constructor(options: StoreOptions) {
    this.opened = this.#opening.promise;
    this.opened.catch(() => {}); // each call reports it
    // .ts when run from source, .js when built
    const name = `store${extname(import.meta.filename)}`;
    try {
      this.#worker = new Worker(join(import.meta.dirname, '../../workers', name), { workerData: options });
    } catch (error) {
      throw lossOf(options.root, error);
    }
    this.#worker.on('message', (answer: StoreAnswer) => this.#take(answer));
    this.#worker.on('error', (error) => this.#lose(lossOf(options.root, error)));
    this.#worker.on('exit', () => this.#lose(lossOf(options.root, new Error('it has ended'))));
  }

  get alive(): boolean {
    return this.#ended === undefined;
  }

  /** Milliseconds since the oldest call without an answer; 0 if there is none. */
  get waited(): number {
    for (const { since } of this.#callers.values()) return performance.now() - since;
    return 0;
  }

  /** @throws what the call throws; UnpackError STORE_FAILED if the thread dies during the call */
  async ask<Method extends StoreMethod>(method: Method, args: Parameters<OwnStore[Method]>): Promise<Result<Method>> {
    if (!this.#isOpen) await this.opened;
    if (this.#ended !== undefined) throw this.#ended;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const id = this.#calls++;
    this.#callers.set(id, { since: performance.now(), resolve, reject });
    this.#worker.ref();
    // `as`: the compiler cannot see that `args` are the arguments of `method`
    this.#worker.postMessage({ id, method, args } as StoreCall);
    return promise as Promise<Result<Method>>; // `as`: the thread answers with the result of `method`
  }

  #take(answer: StoreAnswer): void {
    if ('open' in answer) {
      this.#isOpen = true;
      this.#opening.resolve(answer.open);
    } else if ('refused' in answer) {
      this.#lose(deserializeError(answer.refused));
    } else {
      const caller = this.#callers.get(answer.id);
      this.#callers.delete(answer.id);
      if ('error' in answer) caller?.reject(deserializeError(answer.error));
      else caller?.resolve(answer.value);
    }
    if (this.#callers.size === 0) this.#worker.unref();
  }

  #lose(error: unknown): void {
    this.#ended ??= error;
    this.#opening.reject(error);
    for (const { reject } of this.#callers.values()) reject(error);
    this.#callers.clear();
  }
}

function lossOf(root: string, error: unknown): UnpackError {
  const why = error instanceof Error ? error.message : String(error);
  const starts = errnoOf(error) === 'ERR_WORKER_INIT_FAILED';
  const advice = starts
    ? `does not start (${why}); raise the limits of this process (ulimit -n and -u, LimitNOFILE, TasksMax)`
    : `died (${why}); the next call starts another one`;
  return new UnpackError('STORE_FAILED', `the thread of the store ${root} ${advice}`, { cause: error });
}
