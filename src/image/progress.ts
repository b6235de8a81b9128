import { formatPlatform } from '../oci/platform.ts';
import type { ApplyTimings, Log } from '../rootfs/applier.ts';
import type { LayerObserver } from '../rootfs/apply-layers.ts';
import type { ResolvedImage } from './request.ts';
import { type LayerTimeline, TimelineRecorder } from './timeline.ts';

/**
 * The live state of an image while it is unpacked. The unpacker creates the state, `observe` updates it, and the queue
 * and the command line show it.
 */

/**
 * The phase of a layer. `queued` waits for a thread, `waiting` for another job that applies the layer; `existed` and `applied` are
 * final.
 */
export type LayerPhase = 'queued' | 'waiting' | 'applying' | 'committing' | 'applied' | 'existed';

/**
 * What is done for a layer that is `queued` or `applying`. `fetching`: bytes of its blob arrive and are written. `writing`: all bytes
 * have arrived. `below`: it can only continue when the layer below is in the store.
 */
export type LayerStep = 'fetching' | 'writing' | 'below';

/** The state of one layer. */
export interface LayerState {
  readonly diffId: string;
  readonly chainId: string;
  readonly blobDigest: string;
  phase: LayerPhase;
  step?: LayerStep | undefined;
  /** Size of the blob in bytes, from its descriptor. */
  readonly size: number;
  fetched: number;
  unpacked: number;
  entries: number;
  /** Bytes that its files take on disk. Set if this job applied the layer. */
  written?: number;
  timings?: ApplyTimings;
  /** Set if this job applied the layer. */
  timeline?: LayerTimeline;
}

/** The state of one image (one platform) of a request. */
export interface ImageState {
  readonly platform?: string;
  readonly manifestDigest?: string;
  readonly configDigest?: string;
  /** The chain ID of the top layer; absent for an image without layers. */
  readonly chainId?: string;
  readonly layers: LayerState[];
}

export function stateOf(image: ResolvedImage, phase: LayerPhase): ImageState {
  const top = image.layers.at(-1);
  const layers = image.layers.map(
    (layer): LayerState => ({
      diffId: layer.diff.digest,
      chainId: layer.chainId,
      blobDigest: layer.blob.digest,
      phase,
      size: layer.blob.size,
      fetched: 0,
      unpacked: 0,
      entries: 0,
    }),
  );
  return {
    ...(top === undefined ? {} : { chainId: top.chainId }),
    layers,
    ...(image.platform === undefined ? {} : { platform: formatPlatform(image.platform) }),
    ...(image.manifestDigest === undefined ? {} : { manifestDigest: image.manifestDigest }),
    ...(image.configDigest === undefined ? {} : { configDigest: image.configDigest }),
  };
}

/** Gets the progress of every layer that a call unpacks. Metrics are counted with it. */
export interface LayerWatcher {
  /** More of a layer is fetched, and more of its tar is read: numbers of bytes since the last call. */
  progressed(fetched: number, unpacked: number): void;
  /** The layer is applied, or it exists. */
  settled(layer: LayerState): void;
}

export interface ObserveOptions {
  readonly state: ImageState;
  /** Gets the warnings of the layers. */
  readonly warnings: string[];
  /** Milliseconds since the job requested the image. */
  readonly now: () => number;
  readonly log?: Log | undefined;
  readonly watcher?: LayerWatcher | undefined;
}

/** An observer that updates an image's state, records its timelines, and logs each layer once. */
export function observe({ state, warnings, now, log, watcher }: ObserveOptions): LayerObserver {
  const recorders = state.layers.map(() => new TimelineRecorder(now));
  const at = (index: number): LayerState => {
    const layer = state.layers[index];
    if (layer === undefined) throw new RangeError(`the image has no layer ${index}`);
    return layer;
  };
  const advance = (layer: LayerState, fetched: number, unpacked: number, entries: number): void => {
    watcher?.progressed(growth(layer.fetched, fetched), growth(layer.unpacked, unpacked));
    Object.assign(layer, { fetched, unpacked, entries });
  };
  const name = (index: number): string => `layer ${index + 1} of ${state.layers.length}`;
  return {
    phase(index, phase) {
      const layer = at(index);
      if (layer.phase === phase || layer.phase === 'applied') return;
      layer.phase = phase;
      layer.step = undefined;
      if (phase === 'existed') log?.('info', `${name(index)} exists already`, { chainId: layer.chainId });
      if (phase === 'committing') recorders[index]?.committing();
      if (phase === 'applied') {
        const timeline = recorders[index]?.committed(state.layers.length);
        if (timeline !== undefined) layer.timeline = timeline;
        const seconds = ((layer.timings?.totalMs ?? 0) / 1000).toFixed(2);
        log?.('info', `${name(index)} applied in ${seconds} s: ${layer.entries} entries, ${layer.unpacked} bytes`, {
          chainId: layer.chainId,
        });
      }
      if (phase === 'existed' || phase === 'applied') watcher?.settled(layer);
    },
    waitsBelow(index, yes) {
      const layer = at(index);
      layer.step = yes ? 'below' : layer.phase === 'applying' ? 'writing' : undefined;
    },
    progress(index, progress) {
      recorders[index]?.progress(progress);
      const { fetched, unpacked, entries } = progress;
      const layer = at(index);
      layer.step = fetched < layer.size ? 'fetching' : 'writing';
      advance(layer, fetched, unpacked, entries);
    },
    done(index, diff) {
      recorders[index]?.done(diff);
      const layer = at(index);
      advance(layer, diff.compressedBytes, diff.uncompressedBytes, diff.entries);
      layer.written = diff.usage.bytes;
      layer.timings = diff.timings;
      for (const warning of diff.warnings) {
        warnings.push(`${name(index)}: ${warning}`);
        log?.('warn', `${name(index)}: ${warning}`);
      }
    },
  };
}

/** A count begins again if the layers below were replaced, and the layer is written again. */
function growth(before: number, now: number): number {
  return now < before ? now : now - before;
}
