import type { LayerLimits } from '../archive/tar-reader.ts';
import { type FailureCode, toUnpackError, UnpackError } from '../errors.ts';
import type { Layer } from '../oci/descriptor.ts';
import { type ChainId, chainIds } from '../oci/digest.ts';
import { layerType } from '../oci/media-type.ts';
import { formatPlatform } from '../oci/platform.ts';
import { applyLayers, type LayerObserver } from '../rootfs/apply-layers.ts';
import type { ApplyThread } from '../rootfs/apply-thread.ts';
import { ChainLocks } from '../rootfs/chain-locks.ts';
import { StoreSync } from '../rootfs/durability.ts';
import { LockWaits, lockWaitText } from '../rootfs/lock-waits.ts';
import { removeOrphans } from '../rootfs/orphans.ts';
import { StoreProbe } from '../rootfs/store-probe.ts';
import { ApplyPool } from '../rootfs/thread-pool.ts';
import { snapshotsDirectory } from '../snapshots/directories.ts';
import type { Snapshotter } from '../snapshots/snapshotter.ts';
import type { SourceSpec } from '../source/blob-source.ts';
import { DocumentCache } from '../source/document-cache.ts';
import { OpenSources } from '../source/open-sources.ts';
import { KnownImages } from './known-images.ts';
import type { ImageState, LayerPhase, LayerState } from './progress.ts';
import type { ImageRequest, ResolvedImage } from './request.ts';
import { recallImages, resolveImages } from './resolve.ts';
import { TimelineRecorder } from './timeline.ts';
import type { Lookup, StoreKeeper, UnpackedImage, Unpacker, UnpackOptions } from './unpack.ts';

export interface UnpackerOptions {
  readonly snapshotter: Snapshotter;
  /** Layers that are written at once. */
  readonly threads: number;
  readonly limits: LayerLimits;
  /** Write each layer through to the disk before it is committed. */
  readonly durable: boolean;
  /** Call native decompressors directly; default: yes. */
  readonly native?: boolean;
  /** Start the apply threads now and keep them; default: when they are needed, for a minute. */
  readonly resident?: boolean;
  /** An apply thread that was started before; the unpacker takes it over. */
  readonly started?: ApplyThread;
}

/** Failures after which something may be left in the store that could not be removed then. */
const MAY_LEAVE_SOMETHING = new Set<FailureCode>(['STORE_FULL', 'STORE_FAILED', 'INTERNAL']);

/** Of an image's state: the name of its top layer, if it has any. */
type OnTop = { readonly chainId?: ChainId };

/** The whole way from a request to committed snapshots: resolve, apply what is missing, commit. */
export function createUnpacker(options: UnpackerOptions): Unpacker & { readonly keeper: StoreKeeper } {
  const { snapshotter, limits } = options;
  const pool = new ApplyPool(options.threads, options);
  const locks = new ChainLocks(snapshotter.root);
  const storeSync = new StoreSync(snapshotsDirectory(snapshotter.root));
  const probe = new StoreProbe(snapshotter);
  const sources = new OpenSources();
  const cache = new DocumentCache();
  const known = new KnownImages();
  /** By the images of `known`: what they are in a store that has them. */
  const whenThere = new WeakMap<readonly ResolvedImage[], readonly (UnpackedImage & OnTop)[]>();

  async function recall(spec: SourceSpec, request: ImageRequest): Promise<readonly UnpackedImage[] | undefined> {
    const images = recallImages(sources.get(spec), request, known);
    return images === undefined ? undefined : ifThere(images);
  }

  async function look(spec: SourceSpec, request: ImageRequest, signal?: AbortSignal): Promise<Lookup> {
    const began = performance.now();
    const images = await resolveImages(sources.get(spec), request, { signal, cache, known });
    return { images, began, there: await ifThere(images) };
  }

  async function ifThere(images: readonly ResolvedImage[]): Promise<readonly UnpackedImage[] | undefined> {
    let there = whenThere.get(images);
    if (there === undefined) {
      there = images.map((image) => ({ ...stateOf(image, 'existed'), warnings: image.warnings }));
      whenThere.set(images, there);
    }
    for (const { chainId } of there) {
      if (chainId !== undefined && !(await snapshotter.has(chainId))) return undefined;
    }
    return there;
  }

  /** Before the next call there may be something to clear away. */
  let untidy = false;

  async function unpack(spec: SourceSpec, request: ImageRequest, call: UnpackOptions = {}): Promise<UnpackedImage[]> {
    try {
      if (untidy) await tidyUp(call.log);
      return await unpackImages(spec, request, call);
    } catch (error) {
      if (MAY_LEAVE_SOMETHING.has(toUnpackError(error).code)) untidy = true;
      throw error;
    }
  }

  /** Gives back the space that a failed layer may still take, before the next attempt needs it. */
  async function tidyUp(log: UnpackOptions['log']): Promise<void> {
    untidy = false;
    try {
      await removeOrphans(snapshotter, log);
    } catch (error) {
      untidy = true;
      log?.('warn', `what a failed job has left in the store cannot be removed yet: ${toUnpackError(error).message}`);
    }
  }

  async function unpackImages(spec: SourceSpec, request: ImageRequest, call: UnpackOptions): Promise<UnpackedImage[]> {
    const source = sources.get(spec);
    const { images, began } = call.found ?? (await look(spec, request, call.signal));
    const states = images.map((image) => stateOf(image, 'queued'));
    call.onResolved?.(states);
    const applier = pool.applier(source, limits, snapshotter);
    const unpacked: UnpackedImage[] = [];
    const onBlocked: UnpackOptions['onBlocked'] =
      call.onBlocked ?? ((wait) => call.log?.('info', `waits for ${lockWaitText(wait)}`));
    using waits = new LockWaits({ owner: call.owner, onBlocked });
    // one platform after the other: they share little, and their layers run in parallel already
    for (const [index, image] of images.entries()) {
      const state = states[index];
      if (state === undefined) continue;
      const warnings = [...image.warnings];
      for (const warning of warnings) call.log?.('warn', warning);
      if (image.layers.length === 0) {
        call.log?.('info', 'the image has no layers, so there is nothing to unpack');
        unpacked.push({ ...state, warnings });
        continue;
      }
      const now = () => performance.now() - began;
      const applying = applyLayers(image.layers, snapshotter, applier, {
        locks,
        waits,
        signal: call.signal,
        log: call.log,
        observer: observe(state, warnings, now, call.log),
        ...(call.labels === undefined ? {} : { labels: call.labels }),
        ...(options.durable ? { watch: () => storeSync.watch() } : {}),
      });
      await applying.catch((error: unknown) => Promise.reject(whyMissing(error, image.layers)));
      unpacked.push({ ...state, warnings });
    }
    return unpacked;
  }

  return {
    recall,
    look,
    unpack,
    keeper: {
      tidy: (log) => probe.tidy(log),
      check: (log) => probe.check(log),
      heldElsewhere: (chainId) => locks.heldElsewhere(chainId),
    },
    async close() {
      sources.close();
      await pool.close();
      storeSync[Symbol.dispose]();
    },
  };
}

/** A mirror lacks a non-distributable layer for a reason, which is not that its upload is still under way. */
function whyMissing(error: unknown, layers: readonly Layer[]): unknown {
  if (!(error instanceof UnpackError) || error.code !== 'BLOB_NOT_FOUND') return error;
  const mediaType = layers[error.details.layerIndex ?? -1]?.blob.mediaType;
  if (mediaType === undefined || !layerType(mediaType).foreign) return error;
  return new UnpackError(
    'BLOB_NOT_FOUND',
    `${error.message}; the layer is non-distributable (${mediaType}), which mirrors leave out by default: upload its blob, too, or push an image without such layers`,
    { cause: error, details: error.details },
  );
}

function stateOf(image: ResolvedImage, phase: LayerPhase): ImageState & OnTop {
  const chain = chainIds(image.layers.map((layer) => layer.diff.digest));
  const top = chain.at(-1);
  const layers = image.layers.map(
    (layer, index): LayerState => ({
      diffId: layer.diff.digest,
      chainId: chain[index] ?? '',
      blobDigest: layer.blob.digest,
      phase,
      size: layer.blob.size,
      fetched: 0,
      unpacked: 0,
      entries: 0,
    }),
  );
  return {
    ...(top === undefined ? {} : { chainId: top }),
    layers,
    ...(image.platform === undefined ? {} : { platform: formatPlatform(image.platform) }),
    ...(image.manifestDigest === undefined ? {} : { manifestDigest: image.manifestDigest }),
    ...(image.configDigest === undefined ? {} : { configDigest: image.configDigest }),
  };
}

/** Keeps an image's state current, and tells the operator of each layer once. */
function observe(state: ImageState, warnings: string[], now: () => number, log: UnpackOptions['log']): LayerObserver {
  const recorders = state.layers.map(() => new TimelineRecorder(now));
  const at = (index: number): LayerState => {
    const layer = state.layers[index];
    if (layer === undefined) throw new RangeError(`the image has no layer ${index}`);
    return layer;
  };
  const name = (index: number): string => `layer ${index + 1} of ${state.layers.length}`;
  return {
    phase(index, phase) {
      const layer = at(index);
      if (layer.phase === phase || layer.phase === 'applied') return;
      layer.phase = phase;
      if (phase === 'existed') log?.('info', `${name(index)} is there already`, { chainId: layer.chainId });
      if (phase === 'committing') recorders[index]?.committing();
      if (phase === 'applied') {
        const timeline = recorders[index]?.committed(state.layers.length);
        if (timeline !== undefined) layer.timeline = timeline;
        const seconds = ((layer.timings?.totalMs ?? 0) / 1000).toFixed(2);
        log?.('info', `${name(index)} applied in ${seconds} s: ${layer.entries} entries, ${layer.unpacked} bytes`, {
          chainId: layer.chainId,
        });
      }
    },
    progress(index, progress) {
      recorders[index]?.progress(progress);
      const { fetched, unpacked, entries } = progress;
      Object.assign(at(index), { fetched, unpacked, entries });
    },
    done(index, diff) {
      recorders[index]?.done(diff);
      Object.assign(at(index), {
        fetched: diff.compressedBytes,
        unpacked: diff.uncompressedBytes,
        entries: diff.entries,
        timings: diff.timings,
      });
      for (const warning of diff.warnings) {
        warnings.push(`${name(index)}: ${warning}`);
        log?.('warn', `${name(index)}: ${warning}`);
      }
    },
  };
}
