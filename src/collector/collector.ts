import { setTimeout as sleep } from 'node:timers/promises';
import { throwIfAborted } from '../errors.ts';
import type { Log } from '../rootfs/applier.ts';
import { removeLeftovers } from '../rootfs/leftovers.ts';
import type { ImageRecord } from '../snapshots/images.ts';
import { isSnapshotError } from '../snapshots/snapshotter.ts';
import type { Store } from '../snapshots/store.ts';
import { type Disk, diskOf } from '../system/space.ts';
import { ageText, bytesText, count, durationText } from '../units.ts';
import { type ReadOptions, readContents, unseenText } from './contents.ts';
import { type Amount, isNothing, type Marks } from './free-space.ts';
import { type CollectionPlan, planCollection, type Removal } from './plan.ts';
import { amountText, keptText, unitName } from './plan-text.ts';
import { StoreLock } from './store-lock.ts';

/** Milliseconds between two looks at the free space while files of removed images are deleted. */
const LOOK = 100;
/** Rounds in a row that may remove nothing, because others began to use the images after the plan was made. */
const MOST_IN_VAIN = 3;

export interface CollectOptions {
  /** For the log: why images are removed. */
  readonly why: string;
  readonly signal?: AbortSignal | undefined;
  readonly log?: Log | undefined;
  /** Called when an image was removed. Its files may still be on their way. */
  readonly onRemoved?: ((removal: Removal) => void) | undefined;
  /** Called once, if another process collects in the same store and this call waits for it. */
  readonly onWait?: (() => void) | undefined;
}

/** What a collection did. */
export interface Collected {
  readonly removals: readonly Removal[];
  /** Free bytes after it, minus those before it. Jobs write meanwhile, so the number can be negative. */
  readonly freed: number;
  /** The disk after it. */
  readonly disk: Disk;
  /** What is still missing. */
  readonly missing: Amount;
  /** The last plan that was made; `undefined` if nothing was missing. It says why nothing more could go. */
  readonly plan: CollectionPlan | undefined;
}

/** What the collections of this process did since it started. */
export interface CollectionTotals {
  /** `short`: it ended with less free space than wanted. */
  readonly collections: Readonly<Record<'enough' | 'short' | 'failed', number>>;
  readonly images: number;
  /** Bytes that the removed images took. */
  readonly bytes: number;
  readonly seconds: number;
}

/**
 * Removes images from a store until enough is free. At most one process collects in a store at a time.
 *
 * A collection begins with what dead workers and replaced snapshots have left, because nobody needs that. Then it has
 * rounds: plan, remove what the plan says, wait until the files are deleted, look at the disk again. It ends when enough is
 * free, or when there is nothing left to remove. Each removal looks again whether anybody uses the snapshot
 * (`Snapshotter.remove`), so an outdated plan can do no harm.
 */
export class Collector {
  readonly store: Store;
  /** `undefined`: images are removed only if a person asks for it. */
  readonly marks: Marks | undefined;
  readonly #lock: StoreLock;
  readonly #totals = { collections: { enough: 0, short: 0, failed: 0 }, images: 0, bytes: 0, seconds: 0 };

  constructor(store: Store, marks: Marks | undefined) {
    this.store = store;
    this.marks = marks;
    this.#lock = new StoreLock(store.state, 'collector');
  }

  get totals(): CollectionTotals {
    return this.#totals;
  }

  /** Why nothing may be removed; `undefined` if it may. */
  async whyOff(): Promise<string | undefined> {
    if (this.store.collectedBy === 'containerd') return 'containerd collects what no image needs';
    return unseenText(await this.store.mounted());
  }

  /** What would be removed to free `want`. @throws UnpackError STORE_FAILED */
  async plan(want: Amount, options?: ReadOptions): Promise<CollectionPlan> {
    return planCollection(await readContents(this.store, options), want);
  }

  /**
   * Removes images until nothing is missing any more, or nothing more can be removed.
   * @param missing what must still be freed on this disk
   * @throws the reason of the signal; UnpackError STORE_FAILED, STORE_FULL
   */
  async collect(missing: (disk: Disk) => Amount, options: CollectOptions): Promise<Collected> {
    using _lock = await this.#lock.acquire(options.signal, options.onWait);
    return await this.#counted(missing, options);
  }

  /** The same, but `undefined` at once if another process collects in the same store. */
  async tryCollect(missing: (disk: Disk) => Amount, options: CollectOptions): Promise<Collected | undefined> {
    using lock = await this.#lock.tryAcquire();
    return lock === undefined ? undefined : await this.#counted(missing, options);
  }

  /** A collection that has nothing to do is not counted, nor one that is aborted. */
  async #counted(missing: (disk: Disk) => Amount, options: CollectOptions): Promise<Collected> {
    const began = performance.now();
    const { collections } = this.#totals;
    try {
      const collected = await this.#rounds(missing, options);
      const isShort = !isNothing(collected.missing);
      if (isShort) collections.short += 1;
      else if (collected.removals.length > 0) collections.enough += 1;
      return collected;
    } catch (error) {
      if (options.signal?.aborted !== true) collections.failed += 1;
      throw error;
    } finally {
      this.#totals.seconds += (performance.now() - began) / 1000;
    }
  }

  async #rounds(missing: (disk: Disk) => Amount, options: CollectOptions): Promise<Collected> {
    const { root } = this.store;
    const began = performance.now();
    const before = await diskOf(root);
    const removals: Removal[] = [];
    let plan: CollectionPlan | undefined;
    let want = missing(before);
    let disk = before;
    if (!isNothing(want)) {
      await this.#settled(missing, options);
      disk = await diskOf(root);
      want = missing(disk);
    }
    for (let inVain = 0; !isNothing(want) && inVain < MOST_IN_VAIN; ) {
      plan = await this.plan(want);
      if (plan.removals.length === 0) break;
      const removed = await this.#remove(plan, missing, options);
      removals.push(...removed);
      // then the next plan knows who uses the images
      inVain = removed.length === 0 ? inVain + 1 : 0;
      if (removed.length > 0) await this.#settled(missing, options);
      disk = await diskOf(root);
      want = missing(disk);
    }
    const collected = { removals, freed: disk.bytes - before.bytes, disk, missing: want, plan };
    if (removals.length > 0) options.log?.('info', endText(collected, performance.now() - began));
    return collected;
  }

  /** Removes what a plan says, until enough is free. @returns what was removed */
  async #remove(plan: CollectionPlan, missing: (disk: Disk) => Amount, options: CollectOptions): Promise<Removal[]> {
    const { signal, log, why, onRemoved } = options;
    const removals: Removal[] = [];
    for (const removal of plan.removals) {
      throwIfAborted(signal);
      // others may have freed enough
      if (isNothing(missing(await diskOf(this.store.root)))) break;
      if (!(await this.#removeUnit(removal, log))) continue;
      removals.push(removal);
      this.#totals.images += 1;
      this.#totals.bytes += removal.frees.bytes;
      const facts = `${unitName(removal)}, last used ${ageText(removal.used)} ago, because ${why}`;
      log?.('info', `removed ${facts}: frees ${amountText(removal.frees)}`);
      onRemoved?.(removal);
    }
    return removals;
  }

  /** @returns whether its top layer was removed */
  async #removeUnit(removal: Removal, log: Log | undefined): Promise<boolean> {
    const records = await this.#removeRecords(removal.images);
    if (records === undefined) return false;
    for (const name of removal.layers) {
      try {
        await this.store.remove(name);
      } catch (error) {
        if (isSnapshotError(error, 'NotFound')) continue; // somebody else has removed it
        const isTop = name === removal.top;
        if (isTop) await records.restore();
        if (!isSnapshotError(error, 'FailedPrecondition')) throw error;
        log?.('info', `${isTop ? unitName(removal) : 'a layer of it'} stays: ${error.message}`);
        return !isTop;
      }
    }
    return true;
  }

  /**
   * Removes the records of images, which fails if one was pinned meanwhile.
   * @returns a way to restore them; `undefined` if one is pinned
   */
  async #removeRecords(images: readonly ImageRecord[]): Promise<{ restore(): Promise<void> } | undefined> {
    const restores: (() => Promise<void>)[] = [];
    const restore = async (): Promise<void> => {
      for (const one of restores) await one();
    };
    for (const record of images) {
      const documents = await this.#documentsOf(record);
      try {
        await this.store.removeImage(record.reference, record.platform);
        restores.push(() => this.store.recordImage(record, documents));
      } catch (error) {
        if (isSnapshotError(error, 'NotFound')) continue;
        await restore();
        if (!isSnapshotError(error, 'FailedPrecondition')) throw error;
        return undefined;
      }
    }
    return { restore };
  }

  async #documentsOf({ manifestDigest, configDigest, indexDigest }: ImageRecord): Promise<Map<string, Uint8Array>> {
    const documents = new Map<string, Uint8Array>();
    for (const digest of [manifestDigest, configDigest, indexDigest]) {
      const bytes = digest === undefined ? undefined : await this.store.document(digest);
      if (digest !== undefined && bytes !== undefined) documents.set(digest, bytes);
    }
    return documents;
  }

  /** Waits until the files of removed snapshots are deleted, or enough is free. */
  async #settled(missing: (disk: Disk) => Amount, { signal, log }: CollectOptions): Promise<void> {
    let over = false;
    const cleaned = removeLeftovers(this.store, log).finally(() => {
      over = true;
    });
    cleaned.catch(() => {});
    while (!over) {
      throwIfAborted(signal);
      if (isNothing(missing(await diskOf(this.store.root)))) return;
      await Promise.race([cleaned, sleep(LOOK)]);
    }
    await cleaned;
  }
}

function endText({ removals, disk, missing, plan }: Collected, milliseconds: number): string {
  const done = `removed ${count(removals.length, 'image')} in ${durationText(milliseconds)}; ${bytesText(disk.bytes)} free now`;
  if (isNothing(missing)) return done;
  const stays = keptText(plan?.kept ?? []);
  const why = `because nothing more can be removed${stays === '' ? '' : ` (${stays})`}`;
  return `${done}, ${amountText(missing)} less than wanted, ${why}`;
}
