import type { ApplyTimings } from '../rootfs/applier.ts';
import type { LayerTimeline } from './timeline.ts';

/** Where a layer is. `existed` and `applied` are ends; a layer that another job applies meanwhile is `waiting`. */
export type LayerPhase = 'queued' | 'waiting' | 'applying' | 'committing' | 'applied' | 'existed';

/** One layer of an image while the job runs, and after. */
export interface LayerState {
  readonly diffId: string;
  readonly chainId: string;
  readonly blobDigest: string;
  phase: LayerPhase;
  /** Bytes of the blob, as its descriptor says. */
  readonly size: number;
  fetched: number;
  unpacked: number;
  entries: number;
  timings?: ApplyTimings;
  /** Of a layer that was applied here. */
  timeline?: LayerTimeline;
}

/** The state of one image (one platform) of a request. */
export interface ImageState {
  readonly platform?: string;
  readonly manifestDigest?: string;
  readonly configDigest?: string;
  /** Of the top layer; absent for an image without layers. */
  readonly chainId?: string;
  readonly layers: LayerState[];
}
