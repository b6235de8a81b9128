import { copyParentAttributesInTurns } from '../diff/parent-attributes.ts';
import { MAX_PASSES, type PassFindings } from '../diff/second-pass.ts';
import { diffTarget, lowerDirectories } from '../diff/target.ts';
import { throwIfAborted, toUnpackError, UnpackError } from '../errors.ts';
import { type ChainLayer, chainLayers, type Layer } from '../oci/descriptor.ts';
import { type ChainId, type DiffId, shortDigest } from '../oci/digest.ts';
import {
  isSnapshotError,
  isWhole,
  LABEL_DIFF_ID,
  LABEL_SNAPSHOT_REF,
  type Mount,
  SnapshotError,
  type SnapshotInfo,
  type Snapshotter,
} from '../snapshots/snapshotter.ts';
import type { AppliedDiff, Applier, ApplyOptions, ApplyProgress, Log } from './applier.ts';
import { ApplyOrder } from './apply-order.ts';
import type { ChainLocks } from './chain-locks.ts';
import { explainRemoval, MAX_TRIES, onSnapshot, readBelow, vanishing } from './changing-store.ts';
import { LayersBelow } from './layers-below.ts';
import { extractionKey, removeLeftoversOf, viewKey } from './leftovers.ts';
import { LockWaits } from './lock-waits.ts';
import { TemporarySnapshot } from './temporary-snapshot.ts';

/** Maximum number of keys that are tried for one extraction. Keys are random, so a second key is rarely needed. */
const MAX_KEYS = 16;

export interface ApplyLayersOptions {
  readonly locks: ChainLocks;
  /** Records which locks of other processes the call waits for; its owner is written into the lock files. */
  readonly waits?: LockWaits | undefined;
  /** The layers that the caller has just seen to be missing. They are begun sooner, in a better order. Default: none. */
  readonly missing?: ReadonlySet<ChainId> | undefined;
  /** Set on every snapshot that is committed. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  readonly observer?: LayerObserver;
  readonly log?: Log | undefined;
  /**
   * Called before a layer is written that must be synced. The returned function is called before the commit, and syncs all
   * writes since `watch` was called. Without it, nothing is synced.
   */
  readonly watch?: () => () => Promise<void>;
}

/** Receives the progress of each layer. `index` is the layer's position, bottom-most 0. */
export interface LayerObserver {
  phase(index: number, phase: 'queued' | 'waiting' | 'applying' | 'committing' | 'applied' | 'existed'): void;
  /** The layer begins or ends to wait for the layer below. */
  waitsBelow(index: number, yes: boolean): void;
  progress(index: number, progress: ApplyProgress): void;
  done(index: number, diff: AppliedDiff): void;
}

/**
 * Applies the layers of an image (bottom-most first) that the store lacks, each on its parent. The top layer is looked up
 * first, then the missing layers are found from the top down, as containerd does it (rootfs/apply.go).
 * @returns the chain ID of the top layer
 * @throws UnpackError with the layer in its details; layers that are already committed stay
 */
export async function applyLayers(
  layers: readonly ChainLayer[],
  snapshotter: Snapshotter,
  applier: Applier,
  options: ApplyLayersOptions,
): Promise<ChainId> {
  const top = layers.at(-1);
  if (top === undefined) throw new UnpackError('MANIFEST_INVALID', 'an image without layers has nothing to unpack');
  const chain = new Chain(layers, snapshotter, applier, options);
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    await chain.ensure(layers.length - 1);
    // somebody may have removed a layer, or have lost the files of one, while another was made
    if (await snapshotter.has(top.chainId)) return top.chainId;
  }
  throw vanishing(`the layers of the image do not stay in the store ${snapshotter.root}`);
}

/**
 * Applies one layer on parents that are in the store already.
 * @param parents the DiffIDs of the layers below, bottom-most first
 * @returns whether the layer was applied; `false`: it existed
 * @throws UnpackError STORE_FAILED if a parent is missing; and as `applyLayers`
 */
export async function applyLayer(
  layer: Layer,
  parents: readonly DiffId[],
  snapshotter: Snapshotter,
  applier: Applier,
  options: ApplyLayersOptions,
): Promise<boolean> {
  const below = parents.map((digest) => ({ diff: { digest }, blob: undefined }));
  const chain = new Chain(chainLayers([...below, layer]), snapshotter, applier, options);
  return (await chain.ensure(parents.length)) === 'applied';
}

/** A layer of the chain; without a blob it must be in the store already. */
type PlacedLayer = Omit<ChainLayer, 'blob'> & { readonly blob: Layer['blob'] | undefined };

/**
 * The layers of one image on their way into a store.
 *
 * `ensure(n)` makes layer n exist. It takes the lock on the chain ID, then `create` prepares an extraction snapshot,
 * writes the layer and commits it. `prepare` looks the parent up, so that nobody can remove the parent after the
 * lookup. If the parent is missing:
 *
 * - in a store that can rebase, the layer is written at once, while the layers below are made (`LayersBelow`), and gets
 *   its parent at commit. If the caller has seen that the parent is missing, the layers below begin first;
 * - in any other store, the parent is made first.
 *
 * In both cases a layer is committed after its parent.
 */
class Chain {
  private readonly layers: readonly PlacedLayer[];
  private readonly snapshotter: Snapshotter;
  private readonly applier: Applier;
  private readonly options: ApplyLayersOptions;
  private readonly waits: LockWaits;
  /** The layers that were missing when the call began, and do not exist yet. */
  private readonly missing: Set<ChainId>;
  private readonly order: ApplyOrder;

  constructor(layers: readonly PlacedLayer[], snapshotter: Snapshotter, applier: Applier, options: ApplyLayersOptions) {
    this.layers = layers;
    this.snapshotter = snapshotter;
    this.applier = applier;
    this.options = options;
    this.waits = options.waits ?? new LockWaits();
    this.missing = new Set(snapshotter.rebase ? options.missing : []);
    this.order = new ApplyOrder(
      layers.flatMap(({ chainId, blob }, index) => (this.missing.has(chainId) ? [[index, blob?.size ?? 0]] : [])),
    );
  }

  /**
   * Makes the layer exist, and all below it.
   * @param wasMissing the caller has just seen that the layer is missing. Without a second look at each layer, the lowest starts
   *   sooner
   */
  async ensure(
    index: number,
    signal = this.options.signal,
    wasMissing = this.isMissing(index),
  ): Promise<'applied' | 'existed'> {
    const { chainId } = this.layer(index);
    try {
      if (!wasMissing && (await this.snapshotter.has(chainId))) return this.existed(index);
      using _lock = await this.lock(index, signal);
      await using below = this.isMissing(index - 1) ? this.makeBelow(index, signal) : undefined;
      for (let tries = 0; tries < MAX_TRIES; tries++) {
        // the previous holder of the lock has possibly committed the layer
        if (await this.snapshotter.has(chainId)) return this.existed(index);
        // only a store with marks can tell that a snapshot cannot be used, so that it must be replaced
        const there = this.snapshotter.marked ? await this.committed(chainId) : undefined;
        if (there === undefined || !isWhole(there) || index === 0) {
          // containerd collects them when the lease of the dead process has been ended
          const { collectedBy } = this.snapshotter;
          if (collectedBy === 'unpackd') await removeLeftoversOf(this.snapshotter, chainId, this.options.log);
          return await this.create(index, there, below, signal);
        }
        // only a layer below must be made again
        await this.ensure(index - 1, signal);
      }
      throw vanishing('the layers below it do not stay in the store');
    } catch (error) {
      this.order.leave(index);
      throw this.located(error, index);
    }
  }

  /** The lock on the chain ID. If another process has it, the other layers are written meanwhile. */
  private async lock(index: number, signal: AbortSignal | undefined): Promise<Disposable> {
    const { chainId } = this.layer(index);
    const { locks } = this.options;
    throwIfAborted(signal);
    const lock = await locks.tryAcquire(chainId, this.waits);
    if (lock !== undefined) return lock;
    this.order.leave(index);
    this.options.observer?.phase(index, 'waiting');
    const waited = await locks.acquire(chainId, signal, this.waits);
    this.options.observer?.phase(index, 'queued');
    return waited;
  }

  /** Begins to make the layers below. */
  private makeBelow(index: number, signal: AbortSignal | undefined): LayersBelow {
    return new LayersBelow((stop) => this.ensure(index - 1, stop, true), signal);
  }

  /**
   * Writes the layer, in a new snapshot for each pass, and commits it. The caller holds the lock on its chain ID.
   * @param replaced the snapshot of that name that cannot be used, if there is one
   * @param below the layers below, if they are being made already
   */
  private async create(
    index: number,
    replaced: SnapshotInfo | undefined,
    below: LayersBelow | undefined,
    signal: AbortSignal | undefined,
  ): Promise<'applied' | 'existed'> {
    // A layer that replaces a suspect one is synced in any case. Otherwise two processes that use different mounts, and do
    // not sync, would replace each other's layers again and again.
    const mustSync = this.snapshotter.durable || replaced?.suspect === true;
    let findings: PassFindings | undefined;
    for (let [pass, tries] = [1, 1]; pass <= MAX_PASSES && tries <= MAX_TRIES; tries++) {
      await using extraction = await this.prepare(index, signal);
      if (extraction === undefined) return this.existed(index);
      const sync = mustSync ? this.options.watch?.() : undefined;
      const explained = async (error: unknown) => Promise.reject(await explainRemoval(error, extraction));
      const diff = await this.extract(index, extraction, { findings, signal }, below).catch(explained);
      if (diff === undefined) {
        this.log(index, 'is written again, because the layers below it were replaced meanwhile', extraction);
        continue;
      }
      if (!diff.needsSecondPass) {
        return await this.waits.writing(() => this.commit(index, extraction, diff, sync, signal).catch(explained));
      }
      ({ findings } = diff);
      pass++;
      this.log(index, 'needs another pass: its last entries change how its first ones must be written', extraction);
    }
    throw new UnpackError(
      'LAYER_UNSAFE',
      `the layer deletes symbolic links that its own entries were written through, more than ${MAX_PASSES} times`,
    );
  }

  /**
   * Makes the snapshot that the layer is written into. If the parent is missing and the store cannot rebase, it makes
   * the parent first.
   * @returns `undefined` if somebody who does not use the locks has committed the layer meanwhile, as a pull of containerd
   */
  private async prepare(index: number, signal: AbortSignal | undefined): Promise<TemporarySnapshot | undefined> {
    const { snapshotter, options } = this;
    const { chainId } = this.layer(index);
    const parent = index === 0 ? '' : this.layer(index - 1).chainId;
    const labels = { labels: { ...options.labels, [LABEL_SNAPSHOT_REF]: chainId } };
    let base: string = this.isMissing(index - 1) ? '' : parent;
    for (let tries = 0; tries < MAX_KEYS; tries++) {
      throwIfAborted(signal);
      const key = extractionKey(snapshotter, chainId);
      try {
        const mounts = await this.waits.writing(() => snapshotter.prepare(key, base, labels));
        const below = parent === '' ? 'nothing' : base === '' ? 'later' : 'parent';
        const unfinished = `${this.name(index)} is not committed; removing its extraction snapshot`;
        return new TemporarySnapshot({ key, mounts, below, unfinished }, snapshotter, options.log);
      } catch (error) {
        if (isSnapshotError(error, 'AlreadyExists')) {
          // containerd refuses the label of a layer that exists, whatever the key
          if (await snapshotter.has(chainId)) return undefined;
          continue; // try a different key
        }
        if (!isSnapshotError(error, 'NotFound') || base === '') throw error;
        if (snapshotter.rebase) base = '';
        else {
          options.observer?.waitsBelow(index, true);
          await this.ensure(index - 1, signal);
          options.observer?.waitsBelow(index, false);
        }
      }
    }
    throw new UnpackError('STORE_FAILED', `${MAX_KEYS} random extraction keys were all taken in ${snapshotter.root}`);
  }

  /**
   * Writes the layer once. If its parent does not exist yet, the layers below are made at the same time. After that,
   * directories without an entry in the layer get their attributes from the parent.
   * @param options with the findings of the previous pass
   * @returns `undefined` if the layers below were replaced meanwhile: the layer has possibly read an incomplete one
   */
  private async extract(
    index: number,
    extraction: TemporarySnapshot,
    options: Pick<ApplyOptions, 'findings' | 'signal'>,
    making: LayersBelow | undefined,
  ): Promise<AppliedDiff | undefined> {
    const { signal } = options;
    const { below, key, mounts } = extraction;
    if (below === 'later') {
      const layersBelow = making ?? this.makeBelow(index, signal);
      const write = async (stop: AbortSignal) => {
        const written = await this.apply(index, mounts, { ...options, below, key, signal: stop });
        this.options.observer?.waitsBelow(index, true);
        return written;
      };
      const diff = await layersBelow.beside(write, signal);
      this.options.observer?.waitsBelow(index, false);
      const needsSecondPass = await this.waits.writing(() =>
        this.copyParentAttributes(index, extraction, diff, signal),
      );
      return { ...diff, needsSecondPass };
    }
    try {
      const diff = await this.apply(index, mounts, { ...options, below, key });
      return below === 'parent' && (await extraction.hasMoved()) ? undefined : diff;
    } catch (error) {
      throwIfAborted(signal);
      if (below === 'parent' && (await extraction.hasMoved().catch(() => false))) return undefined;
      throw error;
    }
  }

  private async apply(
    index: number,
    mounts: readonly Mount[],
    options: Pick<ApplyOptions, 'below' | 'key' | 'findings' | 'signal'>,
  ): Promise<AppliedDiff> {
    const { diff: expected, blob, chainId } = this.layer(index);
    if (blob === undefined) {
      throw new UnpackError('STORE_FAILED', `the layer below, ${shortDigest(chainId)}, is not in the store`);
    }
    // only the first pass reports progress, because counts must not decrease
    const observer = options.findings === undefined ? this.options.observer : undefined;
    const onProgress = (progress: ApplyProgress): void => {
      observer?.phase(index, 'applying');
      observer?.progress(index, progress);
    };
    const applyOptions = { ...options, diffId: expected.digest, onProgress };
    await this.order.turn(index, options.signal);
    const diff = await this.waits.writing(() => this.applier.apply(blob, mounts, applyOptions));
    if (diff.digest !== expected.digest) {
      throw new UnpackError(
        'DIFF_ID_MISMATCH',
        `its tar has the digest ${diff.digest}, but its DiffID is ${expected.digest}; build the image again`,
        { details: { expected: expected.digest, actual: diff.digest } },
      );
    }
    observer?.done(index, diff);
    return diff;
  }

  /**
   * Gives directories without an entry in the layer their attributes in the parent. The parent exists now, unless somebody
   * has just removed it.
   * @returns whether the layer needs another pass
   */
  private async copyParentAttributes(
    index: number,
    extraction: TemporarySnapshot,
    diff: AppliedDiff,
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    if (diff.impliedDirectories.length === 0) return false;
    const target = diffTarget(extraction.mounts, 'later', this.snapshotter, extraction.key);
    return readBelow(
      () => this.viewParent(index, signal),
      (mounts) => {
        const place = { ...target, lowers: lowerDirectories(mounts) };
        return copyParentAttributesInTurns(place, diff.impliedDirectories, diff.directoryModes, signal);
      },
      target,
      signal,
    );
  }

  private async viewParent(index: number, signal: AbortSignal | undefined): Promise<TemporarySnapshot> {
    const key = viewKey(this.snapshotter, this.layer(index).chainId);
    const parent = this.layer(index - 1).chainId;
    const mounts = await this.onParent(index, signal, () => this.snapshotter.view(key, parent));
    return new TemporarySnapshot({ key, mounts, below: 'parent' }, this.snapshotter, this.options.log);
  }

  /** Makes a call that needs the parent. If somebody has removed the parent, it is made again. @throws as both */
  private onParent<T>(index: number, signal: AbortSignal | undefined, call: () => Promise<T>): Promise<T> {
    return index === 0 ? call() : onSnapshot(call, () => this.ensure(index - 1, signal));
  }

  private async commit(
    index: number,
    extraction: TemporarySnapshot,
    { usage }: AppliedDiff,
    sync: (() => Promise<void>) | undefined,
    signal: AbortSignal | undefined,
  ): Promise<'applied' | 'existed'> {
    const { observer, labels } = this.options;
    const { chainId, diff } = this.layer(index);
    observer?.phase(index, 'committing');
    await sync?.();
    try {
      const options = {
        labels: { ...labels, [LABEL_SNAPSHOT_REF]: chainId, [LABEL_DIFF_ID]: diff.digest },
        usage,
        synced: sync !== undefined,
        ...(extraction.below === 'later' ? { parent: this.layer(index - 1).chainId } : {}),
      };
      await this.onParent(index, signal, () => this.snapshotter.commit(chainId, extraction.key, options));
    } catch (error) {
      if (isSnapshotError(error, 'AlreadyExists')) return this.existed(index);
      throw error;
    }
    extraction.isCommitted = true;
    this.missing.delete(chainId);
    observer?.phase(index, 'applied');
    return 'applied';
  }

  /** The committed snapshot of this name, whether it can be used or not. */
  private async committed(chainId: ChainId): Promise<SnapshotInfo | undefined> {
    try {
      const info = await this.snapshotter.stat(chainId);
      return info.kind === 'committed' ? info : undefined;
    } catch (error) {
      if (isSnapshotError(error, 'NotFound')) return undefined;
      throw error;
    }
  }

  /** Reports that the layer and all layers below exist: if a snapshot exists, its parents exist. */
  private existed(index: number): 'existed' {
    this.order.leave(index);
    for (let i = index; i >= 0; i--) {
      this.missing.delete(this.layer(i).chainId);
      this.options.observer?.phase(i, 'existed');
    }
    return 'existed';
  }

  private log(index: number, what: string, { key }: TemporarySnapshot): void {
    this.options.log?.('info', `${this.name(index)} ${what}`, { key });
  }

  private name(index: number): string {
    return `layer ${index + 1} of ${this.layers.length}`;
  }

  /** Adds the layer to a failure, unless the failure already has a lower layer. */
  private located(error: unknown, index: number): UnpackError {
    // a call that the store refuses is a bug of this code
    const refused = error instanceof SnapshotError;
    const failure = refused ? new UnpackError('STORE_FAILED', error.message, { cause: error }) : toUnpackError(error);
    if (failure.details.layerIndex !== undefined) return failure;
    const { blob, chainId } = this.layer(index);
    const layerCount = this.layers.length;
    return failure.with(
      { layerIndex: index, layerCount, chainId, ...(blob === undefined ? {} : { digest: blob.digest }) },
      `${this.name(index)} (${shortDigest(blob?.digest ?? chainId)}): `,
    );
  }

  private isMissing(index: number): boolean {
    const layer = this.layers[index];
    return layer !== undefined && this.missing.has(layer.chainId);
  }

  private layer(index: number): PlacedLayer {
    const layer = this.layers[index];
    if (layer === undefined) throw new RangeError(`the chain has no layer ${index}`);
    return layer;
  }
}
