import { copyParentAttributesInTurns } from '../diff/parent-attributes.ts';
import { MAX_PASSES, type PassFindings } from '../diff/second-pass.ts';
import { type Below, diffTarget, lowerDirectories } from '../diff/target.ts';
import { throwIfAborted, toUnpackError, UnpackError } from '../errors.ts';
import type { Layer } from '../oci/descriptor.ts';
import { type ChainId, chainIds, type DiffId, shortDigest } from '../oci/digest.ts';
import {
  isSnapshotError,
  LABEL_DIFF_ID,
  LABEL_SNAPSHOT_REF,
  type Mount,
  type Snapshotter,
} from '../snapshots/snapshotter.ts';
import type { AppliedDiff, Applier, ApplyOptions, ApplyProgress } from './applier.ts';
import type { ChainLocks } from './chain-locks.ts';
import { extractionKey, viewKey } from './extraction-key.ts';
import { inPlace } from './in-place.ts';
import { LockWaits } from './lock-waits.ts';
import type { Log } from './log.ts';
import { removeLeftovers } from './orphans.ts';

/** Tries to find a key that is not taken: with random keys, a second one is rare enough. */
const MAX_KEYS = 16;

export interface ApplyLayersOptions {
  readonly locks: ChainLocks;
  /** Told what is waited for, and whose the locks are. */
  readonly waits?: LockWaits | undefined;
  /** Kept on every snapshot that is committed. */
  readonly labels?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  readonly observer?: LayerObserver;
  readonly log?: Log | undefined;
  /** Called before a layer is written; what it returns makes durable what was written since, and is called before the commit. */
  readonly watch?: () => () => Promise<void>;
}

/** Told how each layer fares, by its position, bottom-most 0. */
export interface LayerObserver {
  phase(index: number, phase: 'waiting' | 'applying' | 'committing' | 'applied' | 'existed'): void;
  progress(index: number, progress: ApplyProgress): void;
  done(index: number, diff: AppliedDiff): void;
}

/**
 * Applies those of `layers` (bottom-most first) that the store does not have, each on the ones below it, and returns the
 * chain ID of them all. The whole chain is looked up first; what is missing is found from the top.
 * @throws UnpackError with the layer in its details; the layers that were committed by then stay
 */
export async function applyLayers(
  layers: readonly Layer[],
  snapshotter: Snapshotter,
  applier: Applier,
  options: ApplyLayersOptions,
): Promise<ChainId> {
  const chain = new Chain(layers, snapshotter, applier, options);
  await chain.ensure(layers.length - 1);
  return chain.top;
}

/**
 * Applies `layer` on the layers of which `parents` are the DiffIDs (bottom-most first; they must be there already).
 * @returns whether it was applied; `false`: it was there
 * @throws UnpackError
 */
export async function applyLayer(
  layer: Layer,
  parents: readonly DiffId[],
  snapshotter: Snapshotter,
  applier: Applier,
  options: ApplyLayersOptions,
): Promise<boolean> {
  const below = parents.map((digest) => ({ diff: { digest }, blob: undefined }));
  const chain = new Chain([...below, layer], snapshotter, applier, options);
  return (await chain.ensure(parents.length)) === 'applied';
}

type PlacedLayer = { readonly diff: Layer['diff']; readonly blob: Layer['blob'] | undefined };

/** A layer of the chain that is being extracted. */
interface Extraction {
  readonly key: string;
  readonly mounts: readonly Mount[];
  readonly below: Below;
}

/**
 * One chain of layers on its way into a store.
 *
 * `ensure(n)` makes layer n exist: it takes the lock on its chain ID, looks, prepares an extraction snapshot and only
 * then looks below, so that nothing below can vanish in between. Where the parent is missing,
 *  - a store that can rebase gets the layer written at once, beside the layers below it, and its parent at commit;
 *  - any other store gets the parent first.
 * Either way a layer is committed after its parent, and a parent is asked for once.
 */
class Chain {
  private readonly ids: readonly ChainId[];
  private readonly layers: readonly PlacedLayer[];
  private readonly snapshotter: Snapshotter;
  private readonly applier: Applier;
  private readonly options: ApplyLayersOptions;
  private readonly waits: LockWaits;

  constructor(layers: readonly PlacedLayer[], snapshotter: Snapshotter, applier: Applier, options: ApplyLayersOptions) {
    if (layers.length === 0) throw new UnpackError('MANIFEST_INVALID', 'an image without layers has nothing to unpack');
    this.ids = chainIds(layers.map((layer) => layer.diff.digest));
    this.layers = layers;
    this.snapshotter = snapshotter;
    this.applier = applier;
    this.options = options;
    this.waits = options.waits ?? new LockWaits();
  }

  get top(): ChainId {
    return this.id(this.layers.length - 1);
  }

  async ensure(index: number, signal = this.options.signal): Promise<'applied' | 'existed'> {
    const { observer, locks, log } = this.options;
    const chainId = this.id(index);
    try {
      if (await this.snapshotter.has(chainId)) return this.existed(index);
      observer?.phase(index, 'waiting');
      using _lock = await locks.acquire(chainId, signal, this.waits);
      // whoever held the lock before may have done it
      if (await this.snapshotter.has(chainId)) return this.existed(index);
      await removeLeftovers(this.snapshotter, chainId, log);
      let findings: PassFindings | undefined;
      for (let pass = 1; ; pass++) {
        const extraction = await this.prepare(index, signal);
        const { key } = extraction;
        const which = `layer ${index + 1} of ${this.layers.length}`;
        const sync = this.options.watch?.();
        try {
          findings = await this.extract(index, extraction, findings, signal);
          if (findings === undefined) {
            const committed = await this.waits.writing(() => this.commit(index, extraction, sync));
            if (committed) observer?.phase(index, 'applied');
            return committed ? 'applied' : this.existed(index);
          }
          if (pass === MAX_PASSES) {
            throw new UnpackError(
              'LAYER_UNSAFE',
              `the layer deletes symbolic links that its own entries were written through, more than ${MAX_PASSES} times`,
            );
          }
        } catch (error) {
          log?.('info', `${which} failed; removing what was extracted of it`, { key });
          await this.discard(key);
          throw error;
        }
        log?.('info', `${which} is written again: its last entries change what its first entries must write`, { key });
        await this.discard(key);
      }
    } catch (error) {
      throw this.located(error, index);
    }
  }

  /** A layer that is there has all layers below it there too. */
  private existed(index: number): 'existed' {
    for (let i = index; i >= 0; i--) this.options.observer?.phase(i, 'existed');
    return 'existed';
  }

  private async prepare(index: number, signal: AbortSignal | undefined): Promise<Extraction> {
    const { snapshotter, options } = this;
    const chainId = this.id(index);
    const parent = index === 0 ? '' : this.id(index - 1);
    const labels = { labels: { ...options.labels, [LABEL_SNAPSHOT_REF]: chainId } };
    let parentAsked = false;
    let base: string = parent;
    for (let tries = 0; tries < MAX_KEYS; tries++) {
      throwIfAborted(signal);
      const key = extractionKey(chainId);
      try {
        const mounts = await this.waits.writing(() => snapshotter.prepare(key, base, labels));
        const below = parent === '' ? 'nothing' : base === '' ? 'later' : 'parent';
        return { key, mounts, below };
      } catch (error) {
        if (isSnapshotError(error, 'AlreadyExists')) continue;
        if (!isSnapshotError(error, 'NotFound') || parentAsked || index === 0) throw error;
        if (snapshotter.rebase) base = '';
        else await this.ensure(index - 1, signal);
        parentAsked = true;
      }
    }
    throw new UnpackError('STORE_FAILED', `${MAX_KEYS} random extraction keys were all taken in ${snapshotter.root}`);
  }

  /**
   * Writes the layer, and all those below it that are missing.
   * @param findings of the pass before
   * @returns findings for the next pass; `undefined`: the layer is right and can be committed
   */
  private async extract(
    index: number,
    { below, mounts }: Extraction,
    findings: PassFindings | undefined,
    signal: AbortSignal | undefined,
  ): Promise<PassFindings | undefined> {
    // each side can be stopped without the other
    const own = new AbortController();
    const lower = new AbortController();
    const follow = (controller: AbortController): AbortSignal =>
      signal === undefined ? controller.signal : AbortSignal.any([signal, controller.signal]);
    // what failed first is the cause; what it stopped fails after it
    const failures: unknown[] = [];

    const applying = this.apply(index, mounts, { below, findings, signal: follow(own) }).catch((error: unknown) => {
      failures.push(error);
      // the layers below are worth finishing only if another attempt can use them
      if (toUnpackError(error).retry === 'never') lower.abort(error);
      return undefined;
    });
    const parent = below === 'later' ? this.ensure(index - 1, follow(lower)) : undefined;
    const parentReady = parent?.catch((error: unknown) => {
      failures.push(error);
      own.abort(error);
    });
    const [diff] = await Promise.all([applying, parentReady]);
    if (failures.length > 0 || diff === undefined) throw failures[0];
    const again =
      below === 'later'
        ? await this.waits.writing(() => this.settle(index, mounts, diff, signal))
        : diff.needsSecondPass;
    return again ? diff.findings : undefined;
  }

  private async apply(
    index: number,
    mounts: readonly Mount[],
    options: Pick<ApplyOptions, 'below' | 'findings' | 'signal'>,
  ): Promise<AppliedDiff> {
    // counts only grow, so the observer sees the first pass only
    const observer = options.findings === undefined ? this.options.observer : undefined;
    const layer = this.layers[index];
    if (layer?.blob === undefined) {
      throw new UnpackError('STORE_FAILED', `the layer below, ${shortDigest(this.id(index))}, is not in the store`);
    }
    const { blob } = layer;
    const applyOptions: ApplyOptions = {
      ...options,
      diffId: layer.diff.digest,
      onProgress: (progress) => {
        observer?.phase(index, 'applying');
        observer?.progress(index, progress);
      },
    };
    const diff = await this.waits.writing(() => this.applier.apply(blob, mounts, applyOptions));
    if (diff.digest !== layer.diff.digest) {
      throw new UnpackError(
        'DIFF_ID_MISMATCH',
        `its tar has the digest ${diff.digest}, but the image promises ${layer.diff.digest}`,
        { details: { expected: layer.diff.digest, actual: diff.digest } },
      );
    }
    observer?.done(index, diff);
    return diff;
  }

  /**
   * The parent is there now: directories that the layer never named take their attributes from it.
   * @returns whether the layer must be written once more
   */
  private async settle(
    index: number,
    mounts: readonly Mount[],
    diff: AppliedDiff,
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    if (diff.impliedDirectories.length === 0) return false;
    const key = viewKey(this.id(index));
    const view = await this.snapshotter.view(key, this.id(index - 1));
    const { root } = diffTarget(mounts, 'later', this.snapshotter);
    try {
      const lowers = lowerDirectories(view);
      return await copyParentAttributesInTurns(root, diff.impliedDirectories, lowers, diff.directoryModes, signal);
    } catch (error) {
      throw inPlace(error, root);
    } finally {
      await this.discard(key);
    }
  }

  private async commit(
    index: number,
    { key, below }: Extraction,
    sync: (() => Promise<void>) | undefined,
  ): Promise<boolean> {
    const { observer, labels } = this.options;
    const chainId = this.id(index);
    observer?.phase(index, 'committing');
    await sync?.();
    try {
      await this.snapshotter.commit(chainId, key, {
        labels: {
          ...labels,
          [LABEL_SNAPSHOT_REF]: chainId,
          [LABEL_DIFF_ID]: this.layers[index]?.diff.digest ?? '',
        },
        ...(below === 'later' ? { parent: this.id(index - 1) } : {}),
      });
      return true;
    } catch (error) {
      if (!isSnapshotError(error, 'AlreadyExists')) throw error;
      await this.discard(key);
      return false;
    }
  }

  /** Removes a snapshot that is of no more use; a failure is told and changes nothing. */
  private async discard(key: string): Promise<void> {
    try {
      await this.snapshotter.remove(key);
    } catch (error) {
      if (isSnapshotError(error, 'NotFound')) return;
      this.options.log?.('warn', `could not remove the extraction snapshot ${key}: ${toUnpackError(error).message}`, {
        key,
      });
    }
  }

  private located(error: unknown, index: number): UnpackError {
    const failure = asUnpackError(error);
    if (failure.details.layerIndex !== undefined) return failure;
    const layer = this.layers[index];
    const count = this.layers.length;
    return failure.with(
      {
        layerIndex: index,
        layerCount: count,
        chainId: this.id(index),
        ...(layer?.blob === undefined ? {} : { digest: layer.blob.digest }),
      },
      `layer ${index + 1} of ${count} (${shortDigest(layer?.blob?.digest ?? this.id(index))}): `,
    );
  }

  private id(index: number): ChainId {
    const id = this.ids[index];
    if (id === undefined) throw new RangeError(`the chain has no layer ${index}`);
    return id;
  }
}

/** A refusal of the store, which a caller that follows the rules never sees, is the store's failure. */
function asUnpackError(error: unknown): UnpackError {
  if (error instanceof Error && error.name === 'SnapshotError') {
    return new UnpackError('STORE_FAILED', error.message, { cause: error });
  }
  return toUnpackError(error);
}
