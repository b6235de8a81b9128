import { closeSync, constants, openSync } from 'node:fs';
import type { ContainerdClient } from '../../grpc/client.ts';
import { isGrpcError } from '../../grpc/errors.ts';
import type { WireSnapshot } from '../../grpc/services.ts';
import { LruCache } from '../../lru-cache.ts';
import { syncFileSystem } from '../../system/files.ts';
import { bootTime, LaterSync } from '../later-sync.ts';
import type { Unsynced } from '../snapshotter.ts';
import { dateOf, LABEL_SYNCED, versionOf } from './wire.ts';

/**
 * Which snapshots of containerd are known to be on disk. containerd syncs none. This program's have a label if their files were
 * synced. Those of others can be synced by any process until the machine restarts; whether a snapshot from before the
 * restart is whole, nobody can tell. The snapshotter uses it.
 */
export class Durability {
  readonly #client: ContainerdClient;
  readonly #snapshotter: string;
  /** Of the directory of all snapshots. It stays open, because the kernel reports a lost write to open descriptors only. */
  readonly #descriptor: number;
  readonly #later: LaterSync;
  /** The committed snapshots that a later sync puts on disk, by name and by the number by which `LaterSync` knows them. */
  readonly #numbers = new Map<string, number>();
  readonly #committed = new Map<number, Pick<WireSnapshot, 'name' | 'createdAt'>>();
  #last = 0;
  /** The layers of an image without the label, by the version of its top snapshot. */
  readonly #unlabelled = new LruCache<readonly UnlabelledLayer[]>(KNOWN);
  /** The versions of layers that this process has synced. */
  readonly #synced = new LruCache<true>(KNOWN);

  /** @param directory of all snapshots @throws system errors */
  constructor(client: ContainerdClient, snapshotter: string, directory: string) {
    this.#client = client;
    this.#snapshotter = snapshotter;
    this.#descriptor = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY);
    this.#later = new LaterSync(this.#descriptor, 0, {
      synced: (ids) => this.#label(ids),
      lost: async () => {
        this.#numbers.clear();
        this.#committed.clear();
        return this.#last;
      },
    });
  }

  /** Committed snapshots whose sync is still to come. */
  get pending(): number {
    return this.#committed.size;
  }

  /**
   * Call it before an active snapshot is prepared: only a loss of writes after this can be noticed.
   * @returns its number, for `committed`
   */
  begin(): number {
    this.#last += 1;
    return this.#last;
  }

  /** Call it after the commit. @param number `undefined` if this process has not begun the snapshot */
  committed({ name, createdAt }: WireSnapshot, number: number | undefined, synced: boolean): void {
    // somebody else has possibly removed an earlier one of this name
    this.gone(name);
    if (synced || number === undefined) return;
    this.#later.add(number);
    // it is not there if a sync by this process would prove nothing
    if (!this.#later.has(number)) return;
    this.#numbers.set(name, number);
    this.#committed.set(number, { name, createdAt });
  }

  /** Call it when a committed snapshot is removed. */
  gone(name: string): void {
    const number = this.#numbers.get(name);
    if (number !== undefined) this.#forget(number, name);
  }

  /**
   * Counts the layers that are not known to be on disk.
   * @param image its top snapshot, and those below as far as the caller knows them: they are read at once
   * @param stat reads a snapshot
   * @param demanded whether to sync the layers of others that can be synced now
   * @throws system errors of the sync; as `stat`
   */
  async unsynced(
    { name, below = [] }: { readonly name: string; readonly below?: readonly string[] },
    stat: (name: string) => Promise<WireSnapshot>,
    demanded: boolean,
  ): Promise<Unsynced> {
    const top = await stat(name);
    const unlabelled = this.#unlabelled.get(versionOf(top)) ?? (await this.#look(top, below, stat));
    const left = unlabelled.filter(({ version }) => this.#synced.get(version) === undefined);
    const others = left.filter((layer) => !this.#isPending(layer.name));
    const young = others.filter(({ isOld }) => !isOld);
    const own = left.length - others.length;
    if (!demanded || young.length === 0) return { own, others: others.length };
    await syncFileSystem(this.#descriptor);
    for (const { version } of young) this.#synced.add(version, true);
    return { own, others: others.length - young.length };
  }

  /** Syncs what this process has committed without a sync, and records it. @throws GrpcError */
  sync(): Promise<void> {
    return this.#later.sync();
  }

  async close(): Promise<void> {
    await this.#later.close();
    closeSync(this.#descriptor);
  }

  /** A layer cannot be replaced while one stands on it, so the answer is right as long as the top snapshot exists. */
  async #look(
    top: WireSnapshot,
    below: readonly string[],
    stat: (name: string) => Promise<WireSnapshot>,
  ): Promise<readonly UnlabelledLayer[]> {
    const booted = bootTime() ?? Number.POSITIVE_INFINITY;
    const layers: UnlabelledLayer[] = [];
    const read = await Promise.all(below.map(async (name) => [name, await stat(name).catch(() => undefined)] as const));
    const known = new Map(read);
    // what is missing there is read once more, which reports why
    for (let layer = top; ; layer = known.get(layer.parent) ?? (await stat(layer.parent))) {
      const isOld = dateOf(layer.createdAt).getTime() < booted;
      if (!(LABEL_SYNCED in layer.labels)) layers.push({ name: layer.name, version: versionOf(layer), isOld });
      if (layer.parent === '') break;
    }
    this.#unlabelled.add(versionOf(top), layers);
    return layers;
  }

  #isPending(name: string): boolean {
    const number = this.#numbers.get(name);
    return number !== undefined && this.#later.has(number);
  }

  async #label(ids: readonly number[]): Promise<void> {
    for (const id of ids) {
      const snapshot = this.#committed.get(id);
      if (snapshot === undefined) continue;
      const { name } = snapshot;
      try {
        const info = await this.#setLabel(name, 'true');
        // another one, which was made after the sync, has the name now
        if (info !== null && versionOf(info) !== versionOf(snapshot)) await this.#setLabel(name, '');
        else if (info !== null) this.#synced.add(versionOf(info), true);
      } catch (error) {
        if (!isGrpcError(error, 'NOT_FOUND')) throw error; // it was removed meanwhile
      }
      this.#forget(id, name);
    }
  }

  /** @param value `""` removes the label */
  async #setLabel(name: string, value: string): Promise<WireSnapshot | null> {
    const info = { name, labels: { [LABEL_SYNCED]: value } };
    const updateMask = { paths: [`labels.${LABEL_SYNCED}`] };
    return (await this.#client.snapshots.Update({ snapshotter: this.#snapshotter, info, updateMask })).info;
  }

  #forget(number: number, name: string): void {
    this.#committed.delete(number);
    if (this.#numbers.get(name) === number) this.#numbers.delete(name);
  }
}

/** The number of images, and of layers, that are remembered. */
const KNOWN = 10_000;

interface UnlabelledLayer {
  readonly name: string;
  readonly version: string;
  /** Whether it was made before this machine started. */
  readonly isOld: boolean;
}
