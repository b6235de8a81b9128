import type { Job } from 'bullmq';
import type { ImageState } from '../image/progress.ts';
import { shortDigest } from '../oci/digest.ts';
import { bytesText, count, durationText } from '../units.ts';
import { failedReason } from './failure.ts';
import type { AppliedLayer, Failure, Progress, UnpackResult, WaitingFor } from './formats.ts';
import type { Logger } from './log.ts';
import { measure, withApplied, withFailure } from './progress.ts';
import { diagnoseRedisError } from './redis-diagnosis.ts';

/** Minimum milliseconds between two writes of a job's progress. */
const INTERVAL = 250;

export interface ReporterOptions {
  readonly attempt: number;
  readonly attempts: number;
  readonly worker: string;
  /** UNPACK_LOCK of the worker in milliseconds. */
  readonly lock: number;
  /** Added to the first log line of the attempt, for example that it continues after a wait. */
  readonly opening?: string | undefined;
  readonly earlier: Progress | undefined;
  /** Layers that earlier runs of the attempt have applied. */
  readonly applied?: readonly AppliedLayer[];
  readonly log: Logger;
}

/**
 * Reports the progress of an attempt: it writes the progress into Redis, at most four times a second and only if it has
 * changed, and log lines into the log of the job and of the process. An error of Redis is logged, and does not fail the
 * job.
 *
 *     silent → reporting   by `start`, or by the first line
 *     reporting → closed   by `completed`, `failed`, `givenBack` or `abandon`
 *
 * An attempt stays silent if its image is in the store and there is nothing else to report.
 */
export class JobReporter {
  readonly #job: Job;
  readonly #options: ReporterOptions;
  #timer: NodeJS.Timeout | undefined;
  #phase: Progress['phase'] = 'resolving';
  #states: readonly ImageState[] = [];
  #failures: readonly Failure[];
  #failure: Failure | undefined;
  #stallsBefore: number;
  #waiting: WaitingFor | undefined;
  #storeFaults: number | undefined;
  #applied: readonly AppliedLayer[];
  #written = '';
  #writing: Promise<void> | undefined;
  #lines: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(job: Job, options: ReporterOptions) {
    this.#job = job;
    this.#options = options;
    this.#failures = options.earlier?.failures ?? [];
    this.#failure = options.earlier?.failure;
    this.#stallsBefore = options.earlier?.stallsBefore ?? 0;
    this.#storeFaults = options.earlier?.storeFaults;
    this.#applied = options.applied ?? [];
  }

  /** Starts to report. A second call does nothing. */
  start(): void {
    if (this.#timer !== undefined || this.#closed) return;
    const { attempt, attempts, worker, opening = '' } = this.#options;
    this.#timer = setInterval(() => this.#write(), INTERVAL);
    this.#write();
    this.line('info', `attempt ${attempt} of ${attempts} on ${worker}${opening}`);
  }

  /** The layers of the images are known. Their states change until the attempt settles. */
  resolved(states: readonly ImageState[]): void {
    this.#states = states;
    this.#phase = 'unpacking';
    for (const state of states) this.line('info', resolvedSentence(state));
  }

  /** Writes a line into both logs. The first line of the attempt comes before it. */
  line(level: 'info' | 'warn' | 'error', sentence: string, fields: object = {}): void {
    this.start();
    this.#options.log[level](fields, sentence);
    const mark = level === 'info' ? '' : `${level.toUpperCase()} `;
    this.#append(`${new Date().toISOString()} ${mark}${sentence}`);
  }

  /** Whether nothing has been reported, and no earlier progress in Redis must be updated. */
  get canStaySilent(): boolean {
    return this.#timer === undefined && this.#options.earlier === undefined;
  }

  /** Whether this run has applied a layer. */
  get hasApplied(): boolean {
    return this.#states.some(({ layers }) => layers.some(({ phase }) => phase === 'applied'));
  }

  async completed(result: UnpackResult): Promise<void> {
    this.line('info', completedSentence(result), { durationMs: result.durationMs });
    this.#phase = 'completed';
    this.#applied = [];
    this.#failure = undefined;
    await this.#end();
  }

  /**
   * @param isLast whether the job fails for good with this failure
   * @param stalls the stalls of the job so far, if the failure is STALLED; later attempts count from there
   */
  async failed(failure: Failure, isLast: boolean, error: Error, stalls = this.#stallsBefore): Promise<void> {
    const { code } = failure;
    const stack = code === 'INTERNAL' ? { err: error } : {};
    this.line(failedLevel(failure, isLast), failedSentence(failure, isLast), { code, ...stack });
    this.#phase = 'failed';
    this.#failure = failure;
    this.#failures = withFailure(this.#failures, failure);
    this.#applied = [];
    this.#stallsBefore = stalls;
    await this.#end();
  }

  /** The job goes back to the queue. */
  async givenBack(more: { readonly waiting?: WaitingFor; readonly storeFaults?: number } = {}): Promise<void> {
    this.#waiting = more.waiting;
    this.#storeFaults = more.storeFaults ?? this.#storeFaults;
    this.#applied = withApplied(this.#applied, this.#states);
    await this.#end();
  }

  /** The job belongs to another worker: nothing more is written. */
  abandon(): void {
    this.#closed = true;
    clearInterval(this.#timer);
  }

  #append(line: string): void {
    this.#lines = this.#lines
      .then(() => (this.#closed ? undefined : this.#job.log(line)))
      .catch((error) => this.#ignore(error));
  }

  async #end(): Promise<void> {
    this.start();
    clearInterval(this.#timer);
    await this.#writing;
    this.#write();
    await this.#writing;
    await this.#lines;
    this.#closed = true;
  }

  #write(): void {
    // one write at a time: while Redis is slow, the next one has the newest progress
    if (this.#closed || this.#writing !== undefined) return;
    const progress = this.#progress();
    const text = JSON.stringify(progress);
    if (text === this.#written) return;
    this.#written = text;
    this.#writing = this.#job
      .updateProgress(progress)
      .catch((error) => this.#ignore(error))
      .finally(() => {
        this.#writing = undefined;
      });
  }

  #progress(): Progress {
    const { attempt, attempts, worker, lock } = this.#options;
    return {
      version: 1,
      phase: this.#phase,
      attempt,
      attempts,
      worker,
      lock,
      ...measure(this.#states),
      ...(this.#failure === undefined ? {} : { failure: this.#failure }),
      failures: [...this.#failures],
      stallsBefore: this.#stallsBefore,
      ...(this.#waiting === undefined ? {} : { waiting: this.#waiting }),
      ...(this.#storeFaults === undefined ? {} : { storeFaults: this.#storeFaults }),
      ...(this.#applied.length === 0 ? {} : { applied: [...this.#applied] }),
    };
  }

  #ignore(error: unknown): void {
    // outages of Redis are logged once for all jobs (outages.ts)
    if (diagnoseRedisError(error) === undefined)
      this.#options.log.warn({ err: error }, 'the progress of a job could not be written');
  }
}

function resolvedSentence({ platform, manifestDigest, layers }: ImageState): string {
  const size = bytesText(layers.reduce((sum, layer) => sum + layer.size, 0));
  const what = [platform, manifestDigest === undefined ? undefined : shortDigest(manifestDigest)].filter(
    (part) => part !== undefined,
  );
  return `image resolved${what.length === 0 ? '' : ` (${what.join(', ')})`}: ${count(layers.length, 'layer')}, ${size}`;
}

function completedSentence({ images, durationMs }: UnpackResult): string {
  const layers = images.flatMap((image) => image.layers);
  const applied = layers.filter((layer) => layer.state === 'applied').length;
  return `completed in ${durationText(durationMs)}: ${count(applied, 'layer')} applied, ${layers.length - applied} existed`;
}

function failedSentence(failure: Failure, isLast: boolean): string {
  const next = isLast ? (failure.retryable ? 'no attempt is left' : 'it is not tried again') : 'it is tried again';
  return `attempt ${failure.attempt} of ${failure.attempts} failed, ${next}: ${failedReason(failure)}`;
}

/** A cancelled job is no error, because somebody asked for it. */
function failedLevel(failure: Failure, isLast: boolean): 'info' | 'warn' | 'error' {
  if (failure.code === 'CANCELLED') return 'info';
  return isLast ? 'error' : 'warn';
}
