import type { Job } from 'bullmq';
import type { FailureCode } from '../errors.ts';
import type { ImageState, LayerWatcher } from '../image/progress.ts';
import { imageOf } from './parse-payload.ts';

/**
 * What a worker reports while it works, for metrics and traces. The processor calls it. A worker without observers makes none
 * of the objects here. An observer must not throw, and must not keep what it is given longer than the call.
 */
export interface WorkerObserver {
  /** Gets the progress of each layer that is unpacked. */
  readonly layers?: LayerWatcher | undefined;
  /** A run of a job ends. It is called in the asynchronous context of that run. */
  runEnds?(run: EndedRun): void;
  /** BullMQ found a job whose worker stopped responding. */
  jobStalled?(): void;
}

/** A run of a job that ends now. */
export interface EndedRun {
  readonly job: ObservedJob;
  readonly end: RunEnd;
  /** When the attempt began, in milliseconds since 1970. The time in which its job was parked is included. */
  readonly started: number;
  /** When the job was ready to be taken for the first time: added, or its delay was over. In milliseconds since 1970. */
  readonly ready: number;
  /** When this run began, in milliseconds since 1970. */
  readonly runStarted: number;
  /** The attempt, counted from 1. */
  readonly attempt: number;
  /** How long finding the image took, in milliseconds. `undefined` if it was not found, or was in the cache. */
  readonly resolveMs: number | undefined;
  /** When the image was requested; the timelines of its layers count from there. In milliseconds since 1970. */
  readonly lookedUp: number;
  /** What is known of the images. Empty if the image was not found. */
  readonly images: readonly ImageState[];
}

export interface ObservedJob {
  readonly id: string;
  /** As its producer calls it. */
  readonly image: string | undefined;
  /** The trace of its producer, as BullMQ's clients write it: JSON of the headers `traceparent` and `tracestate`. */
  readonly traceContext: string | undefined;
}

export function observedJob({ id = '', data, opts }: Job): ObservedJob {
  const metadata: unknown = opts.telemetry?.metadata;
  return { id, image: imageOf(data), traceContext: typeof metadata === 'string' ? metadata : undefined };
}

export type RunEnd =
  /** `existed`: all layers were in the store before. */
  | { readonly kind: 'completed' | 'existed' }
  /** The attempt failed. `retried`: there will be another attempt. */
  | {
      readonly kind: 'failed' | 'retried';
      readonly code: FailureCode;
      readonly message: string;
      readonly layerIndex: number | undefined;
    }
  /** The job went back to the queue, and the attempt does not count. */
  | { readonly kind: 'given back'; readonly why: GivenBackReason };

/** Why a job went back: another process has its layer, the worker shuts down, its store is faulty, or the lock is lost. */
export type GivenBackReason = 'layer_locked' | 'shutting_down' | 'store_faulty' | 'lock_lost';

/** One observer for several; `undefined` if there is none. */
export function joined(observers: readonly WorkerObserver[]): WorkerObserver | undefined {
  const [first, ...others] = observers;
  if (first === undefined || others.length === 0) return first;
  const layers = observers.map((one) => one.layers).filter((one) => one !== undefined);
  return {
    layers:
      layers.length === 0
        ? undefined
        : {
            progressed: (fetched, unpacked) => {
              for (const one of layers) one.progressed(fetched, unpacked);
            },
            settled: (layer) => {
              for (const one of layers) one.settled(layer);
            },
          },
    runEnds: (run) => {
      for (const one of observers) one.runEnds?.(run);
    },
    jobStalled: () => {
      for (const one of observers) one.jobStalled?.();
    },
  };
}
