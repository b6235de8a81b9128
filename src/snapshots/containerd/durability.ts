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
  /** The numbers by which `LaterSync` knows the snapshots that this process has begun or committed, and the reverse. */
  readonly #numbers = new Map<string, number>();
  readonly #names = new Map<number, string>();
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
      lost: async () => this.#last,
    });
  }

  /** Call it when an active snapshot is prepared: only a loss of writes after this can be noticed. */
  begun(key: string): void {
    this.#number(key, ++this.#last);
  }

  /** Call it after the commit. */
  committed(name: string, key: string, synced: boolean): void {
    const number = this.#numbers.get(key);
    this.#numbers.delete(key);
    if (number === undefined) return;
    this.#names.delete(number);
    if (synced) return;
    this.#number(name, number);
    this.#later.add(number);
    if (!this.#later.has(number)) this.gone(name);
  }

  /** Call it when a snapshot is removed. */
  gone(key: string): void {
    this.#names.delete(this.#numbers.get(key) ?? 0);
    this.#numbers.delete(key);
  }

  /**
   * Counts the layers that are not known to be on disk.
   * @param stat reads a snapshot
   * @param demanded whether to sync the layers of others that can be synced now
   * @throws system errors of the sync; as `stat`
   */
  async unsynced(name: string, stat: (name: string) => Promise<WireSnapshot>, demanded: boolean): Promise<Unsynced> {
    const top = await stat(name);
    const unlabelled = this.#unlabelled.get(versionOf(top)) ?? (await this.#look(top, stat));
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
  async #look(top: WireSnapshot, stat: (name: string) => Promise<WireSnapshot>): Promise<readonly UnlabelledLayer[]> {
    const booted = bootTime() ?? Number.POSITIVE_INFINITY;
    const layers: UnlabelledLayer[] = [];
    for (let layer = top; ; layer = await stat(layer.parent)) {
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

  #number(name: string, number: number): void {
    this.#numbers.set(name, number);
    this.#names.set(number, name);
  }

  async #label(ids: readonly number[]): Promise<void> {
    const labels = { [LABEL_SYNCED]: 'true' };
    const updateMask = { paths: [`labels.${LABEL_SYNCED}`] };
    for (const id of ids) {
      const name = this.#names.get(id);
      if (name === undefined) continue;
      try {
        const request = { snapshotter: this.#snapshotter, info: { name, labels }, updateMask };
        const { info } = await this.#client.snapshots.Update(request);
        if (info !== null) this.#synced.add(versionOf(info), true);
      } catch (error) {
        if (!isGrpcError(error, 'NOT_FOUND')) throw error; // it was removed meanwhile
      }
      this.gone(name);
    }
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
