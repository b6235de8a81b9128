import { extname, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { UnpackError } from '../errors.ts';
import { NameReader } from './metadata.ts';
import { metadataFile, type StoreOptions } from './open.ts';
import type { SnapshotInfo, Snapshotter } from './snapshotter.ts';
import { CLOSE_LIMIT } from './store.ts';
import {
  deserializeError,
  type StoreAnswer,
  type StoreCall,
  type StoreFacts,
  type StoreMethod,
} from './store-messages.ts';

/** Milliseconds that `close` waits for the thread: its own limit, and a disk that is slow beyond that. */
const END_LIMIT = CLOSE_LIMIT + 5000;
/** Milliseconds without an answer after which the disk may hang, so that nothing is read on this thread. */
const SLOW = 100;

type Result<Method extends StoreMethod> = Awaited<ReturnType<Snapshotter[Method]>>;

/**
 * Opens the store as `openSnapshotter` does, on a thread of its own (workers/store.ts): SQLite waits for the disk inside
 * its calls, for seconds on one that hangs, and so do renames and walks. The thread that asks goes on meanwhile: a worker
 * renews the locks of its jobs on it.
 * @throws UnpackError as `openSnapshotter`; STORE_FAILED when the machine has no more threads
 */
export async function openStoreThread(options: StoreOptions): Promise<Snapshotter> {
  const channel = new Channel(options);
  return new StoreOnThread(options, channel, await channel.opened);
}

/**
 * Only looks at names are done here, as long as the thread answers in time: they are most of what a job costs whose image
 * is there, and a message to the thread and back would cost more.
 *
 * A thread that dies fails the calls that it has; the next call starts another one.
 */
class StoreOnThread implements Snapshotter {
  readonly root: string;
  readonly type: Snapshotter['type'];
  readonly rebase: boolean;
  readonly ownership: Snapshotter['ownership'];
  readonly overlayXattrs: Snapshotter['overlayXattrs'];
  readonly #options: StoreOptions;
  readonly #names: NameReader | undefined;
  #channel: Channel;
  #closed: Promise<void> | undefined;

  constructor(options: StoreOptions, channel: Channel, facts: StoreFacts) {
    this.root = facts.root;
    this.type = facts.type;
    this.rebase = facts.rebase;
    this.ownership = facts.ownership;
    this.overlayXattrs = facts.overlayXattrs;
    this.#options = options;
    this.#channel = channel;
    this.#names = namesOf(facts.root);
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

  prepare(...args: Parameters<Snapshotter['prepare']>) {
    return this.#ask('prepare', ...args);
  }

  view(...args: Parameters<Snapshotter['view']>) {
    return this.#ask('view', ...args);
  }

  mounts(...args: Parameters<Snapshotter['mounts']>) {
    return this.#ask('mounts', ...args);
  }

  commit(...args: Parameters<Snapshotter['commit']>) {
    return this.#ask('commit', ...args);
  }

  remove(...args: Parameters<Snapshotter['remove']>) {
    return this.#ask('remove', ...args);
  }

  update(...args: Parameters<Snapshotter['update']>) {
    return this.#ask('update', ...args);
  }

  usage(...args: Parameters<Snapshotter['usage']>) {
    return this.#ask('usage', ...args);
  }

  walk(...args: Parameters<Snapshotter['walk']>) {
    return this.#ask('walk', ...args);
  }

  cleanup(...args: Parameters<Snapshotter['cleanup']>) {
    return this.#ask('cleanup', ...args);
  }

  close(): Promise<void> {
    this.#closed ??= this.#end();
    return this.#closed;
  }

  /** `undefined` where the thread is to be asked. */
  #lookUp<T>(look: (names: NameReader) => T): T | undefined {
    if (this.#names === undefined || this.#closed !== undefined || this.#channel.waited >= SLOW) return undefined;
    try {
      return look(this.#names);
    } catch {
      // the thread waits for who locks the file, and knows what to say of a damaged one
      return undefined;
    }
  }

  async #ask<Method extends StoreMethod>(
    method: Method,
    ...args: Parameters<Snapshotter[Method]>
  ): Promise<Result<Method>> {
    if (this.#closed !== undefined) throw new UnpackError('SHUTTING_DOWN', `the snapshot store ${this.root} is closed`);
    if (!this.#channel.alive) this.#channel = new Channel({ ...this.#options, again: true });
    return this.#channel.ask(method, args);
  }

  /** A disk that hangs keeps the thread; what is still to be deleted then is for the next cleanup. */
  async #end(): Promise<void> {
    this.#names?.close();
    if (!this.#channel.alive) return;
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const limit = setTimeout(resolve, END_LIMIT);
    await Promise.race([this.#channel.ask('close', []).catch(() => {}), late]);
    clearTimeout(limit);
  }
}

/** `undefined` where it can't be read here: the thread is asked then. */
function namesOf(root: string): NameReader | undefined {
  try {
    return new NameReader(metadataFile(root));
  } catch {
    return undefined;
  }
}

interface Caller {
  readonly since: number;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** One life of the thread: opening → open → ended. It keeps the process only while an answer is waited for. */
class Channel {
  /** @throws UnpackError as `openSnapshotter` */
  readonly opened: Promise<StoreFacts>;
  readonly #worker: Worker;
  readonly #opening = Promise.withResolvers<StoreFacts>();
  /** In the order in which they came. */
  readonly #callers = new Map<number, Caller>();
  #isOpen = false;
  #calls = 0;
  /** Why it answers no more. */
  #ended: unknown;

  /** @throws UnpackError STORE_FAILED */
  constructor(options: StoreOptions) {
    this.opened = this.#opening.promise;
    this.opened.catch(() => {}); // each call is told
    // run from source and built, the thread's file lies beside in the same form
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

  /** Milliseconds since the oldest call that has no answer yet; 0 when there is none. */
  get waited(): number {
    for (const { since } of this.#callers.values()) return performance.now() - since;
    return 0;
  }

  /** @throws what the call throws; UnpackError STORE_FAILED when the thread dies meanwhile */
  async ask<Method extends StoreMethod>(
    method: Method,
    args: Parameters<Snapshotter[Method]>,
  ): Promise<Result<Method>> {
    if (!this.#isOpen) await this.opened;
    if (this.#ended !== undefined) throw this.#ended;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const id = this.#calls++;
    this.#callers.set(id, { since: performance.now(), resolve, reject });
    this.#worker.ref();
    // `as`: method and arguments are of one kind, which the compiler cannot follow into the message
    this.#worker.postMessage({ id, method, args } as StoreCall);
    return promise as Promise<Result<Method>>; // the thread calls that method
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
  const starts = error instanceof Error && 'code' in error && error.code === 'ERR_WORKER_INIT_FAILED';
  const advice = starts
    ? `does not start (${why}); raise the limits of this process (ulimit -n and -u, LimitNOFILE, TasksMax)`
    : `died (${why}); the next call starts another one`;
  return new UnpackError('STORE_FAILED', `the thread of the store ${root} ${advice}`, { cause: error });
}
