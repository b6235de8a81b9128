import type { AppliedDiff, ApplyProgress } from '../rootfs/applier.ts';

/**
 * When a layer was where, in milliseconds since its image was asked for. Between these moments it waited for a thread,
 * was unpacked, waited for the layers below, was committed.
 */
export interface LayerTimeline {
  /** The image was resolved: the layer could have been begun. */
  readonly queuedMs: number;
  /** A thread began with it. */
  readonly startedMs: number;
  /** Its last entry was written. */
  readonly unpackedMs: number;
  /** The layers below were there: what was written is made durable, and committed. */
  readonly committingMs: number;
  readonly committedMs: number;
  /** From `startedMs` to `unpackedMs`; counts only grow. */
  readonly samples: readonly TimelineSample[];
}

/**
 * How far a layer was, and how long its thread had waited by then, at a moment since the image was asked for: `[moment,
 * bytes of the blob, bytes of the tar, milliseconds waited for the network, milliseconds for the decompressor]`. It is a
 * tuple because a job's data has many of them.
 */
export type TimelineSample = readonly [
  atMs: number,
  fetched: number,
  unpacked: number,
  fetchMs: number,
  decompressMs: number,
];

/** Milliseconds between two samples, at first: a layer that takes long gets them further apart. */
const INTERVAL = 50;
/** Samples of one layer: enough for a picture as wide as a screen shows it. */
const SAMPLES = 32;
/** Samples of an image, shared by its layers: some kilobytes of a job's data. */
const IMAGE_SAMPLES = 96;

/** Writes down when one layer was where. */
export class TimelineRecorder {
  readonly #now: () => number;
  readonly #queuedMs: number;
  #unpackedMs: number | undefined;
  #totalMs = 0;
  #committingMs: number | undefined;
  #samples: TimelineSample[] = [];
  #interval = INTERVAL;

  /** @param now milliseconds since the image was asked for */
  constructor(now: () => number) {
    this.#now = now;
    this.#queuedMs = now();
  }

  progress({ fetched, unpacked, fetchMs = 0, decompressMs = 0 }: ApplyProgress): void {
    const now = this.#now();
    if (now - (this.#samples.at(-1)?.[0] ?? 0) < this.#interval) return;
    this.#samples.push([now, fetched, unpacked, fetchMs, decompressMs]);
    if (this.#samples.length <= SAMPLES) return;
    this.#interval *= 2;
    this.#samples = thinned(this.#samples, SAMPLES / 2);
  }

  done({ compressedBytes, uncompressedBytes, timings }: AppliedDiff): void {
    this.#unpackedMs = this.#now();
    const { fetchMs, decompressMs, totalMs } = timings;
    this.#totalMs = totalMs;
    this.#samples.push([this.#unpackedMs, compressedBytes, uncompressedBytes, fetchMs, decompressMs]);
  }

  committing(): void {
    this.#committingMs = this.#now();
  }

  /**
   * The layer is committed. @param layers that the image has: they share the samples
   * @returns `undefined` when it was not this recorder's work
   */
  committed(layers: number): LayerTimeline | undefined {
    const [unpacked, committing] = [this.#unpackedMs, this.#committingMs];
    if (unpacked === undefined || committing === undefined) return undefined;
    const most = Math.min(SAMPLES, Math.max(2, Math.floor(IMAGE_SAMPLES / layers)));
    return {
      queuedMs: rounded(this.#queuedMs),
      startedMs: rounded(Math.max(this.#queuedMs, unpacked - this.#totalMs)),
      unpackedMs: rounded(unpacked),
      committingMs: rounded(committing),
      committedMs: rounded(this.#now()),
      samples: thinned(this.#samples, most).map(
        ([at, fetched, bytes, fetchMs, decompressMs]): TimelineSample => [
          rounded(at),
          fetched,
          bytes,
          rounded(fetchMs),
          rounded(decompressMs),
        ],
      ),
    };
  }
}

/** About evenly chosen, the last one always. */
function thinned(samples: readonly TimelineSample[], most: number): TimelineSample[] {
  if (samples.length <= most) return [...samples];
  return Array.from({ length: most }, (_, index) => {
    const sample = samples[Math.ceil(((index + 1) * samples.length) / most) - 1];
    if (sample === undefined) throw new RangeError(`sample ${index} of ${most}`);
    return sample;
  });
}

/** Tenths of a millisecond: more is noise. */
const rounded = (milliseconds: number): number => Math.round(milliseconds * 10) / 10;
