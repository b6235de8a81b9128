import type { AppliedDiff, ApplyProgress } from '../rootfs/applier.ts';

/**
 * The phases of one layer, in milliseconds since the job requested its image. In order, the layer waits for a thread,
 * is unpacked, waits for the layers below, and is committed.
 */
export interface LayerTimeline {
  /** The time when the image was resolved; from then on the layer can start. */
  readonly queuedMs: number;
  /** The time when a thread started to unpack the layer. */
  readonly startedMs: number;
  /** The time when the last entry was written. */
  readonly unpackedMs: number;
  /** The time when all lower layers were committed; then sync and commit of this layer start. */
  readonly committingMs: number;
  readonly committedMs: number;
  /** Progress from `startedMs` to `unpackedMs`; counts only grow. */
  readonly samples: readonly TimelineSample[];
}

/**
 * The progress of a layer at one moment: `[milliseconds since the image was requested, bytes of the blob, bytes of the
 * tar, milliseconds waited for the network, milliseconds waited for the decompressor]`. It is a tuple, to keep the data
 * of jobs small.
 */
export type TimelineSample = readonly [
  atMs: number,
  fetched: number,
  unpacked: number,
  fetchMs: number,
  decompressMs: number,
];

/**
 * The first interval between two samples, in milliseconds. The interval doubles when a layer has more than SAMPLES
 * samples.
 */
const INTERVAL = 50;
/** Maximum number of samples of one layer: enough for a chart as wide as a screen. */
const SAMPLES = 32;
/** Maximum number of samples of an image, shared by its layers: some kilobytes in the job's data. */
const IMAGE_SAMPLES = 96;

/** Records the timeline of one layer. */
export class TimelineRecorder {
  readonly #now: () => number;
  readonly #queuedMs: number;
  #unpackedMs: number | undefined;
  #totalMs = 0;
  #committingMs: number | undefined;
  #samples: TimelineSample[] = [];
  #interval = INTERVAL;

  /** @param now milliseconds since the job requested the image */
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
   * Call it when the layer is committed.
   * @param layers number of layers of the image, which share its samples
   * @returns `undefined` if another job applied the layer
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

/** Some of the samples, about evenly spaced, including the last one. */
function thinned(samples: readonly TimelineSample[], most: number): TimelineSample[] {
  if (samples.length <= most) return [...samples];
  return Array.from({ length: most }, (_, index) => {
    const sample = samples[Math.ceil(((index + 1) * samples.length) / most) - 1];
    if (sample === undefined) throw new RangeError(`sample ${index} of ${most}`);
    return sample;
  });
}

/** Rounds to tenths of a millisecond, because smaller differences are noise. */
const rounded = (milliseconds: number): number => Math.round(milliseconds * 10) / 10;
