import type { Job } from 'bullmq';
import type { ImageState } from '../image/progress.ts';
import { shortDigest } from '../oci/digest.ts';
import { bytesText, count, durationText } from '../units.ts';
import { type Failure, failedReason } from './failure.ts';
import type { Logger } from './log.ts';
import { type AppliedLayer, measure, type Progress, type WaitingFor, withApplied, withFailure } from './progress.ts';
import { redisTrouble } from './redis-trouble.ts';
import type { UnpackResult } from './result-schema.ts';

/** Milliseconds between two writes of a job's progress. */
const INTERVAL = 250;

export interface ReporterOptions {
  readonly attempt: number;
  readonly attempts: number;
  readonly worker: string;
  /** What the attempt's first line adds to its number: that it goes on after a wait, and such. */
  readonly opening?: string | undefined;
  readonly earlier: Progress | undefined;
  /** What earlier runs of the attempt have applied. */
  readonly applied?: readonly AppliedLayer[];
  readonly log: Logger;
}

/**
 * Tells a person and a program how a job goes: its progress in Redis, four times a second at most and only when it has
 * changed, and its log lines, in the job's log and in the process's. Neither is worth failing a job for.
 *
 * Its life: *quiet* → `start`, or the first line → *telling* → one of `completed`, `failed`, `handedBack` and `abandon` →
 * *over*. A job that finds everything there and has nothing else to tell is never anything but quiet.
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
  #over = false;

  constructor(job: Job, options: ReporterOptions) {
    this.#job = job;
    this.#options = options;
    this.#failures = options.earlier?.failures ?? [];
    this.#failure = options.earlier?.failure;
    this.#stallsBefore = options.earlier?.stallsBefore ?? 0;
    this.#storeFaults = options.earlier?.storeFaults;
    this.#applied = options.applied ?? [];
  }

  /** Tells from now on; a second call does nothing. */
  start(): void {
    if (this.#timer !== undefined || this.#over) return;
    const { attempt, attempts, worker, opening = '' } = this.#options;
    this.#timer = setInterval(() => this.#write(), INTERVAL);
    this.#write();
    this.line('info', `attempt ${attempt} of ${attempts} on ${worker}${opening}`);
  }

  /** The layers are known; the states change until the end. */
  resolved(states: readonly ImageState[]): void {
    this.#states = states;
    this.#phase = 'unpacking';
  }

  /** A line of both logs. The attempt's own line comes before it. */
  line(level: 'info' | 'warn' | 'error', sentence: string, fields: object = {}): void {
    this.start();
    this.#options.log[level](fields, sentence);
    const mark = level === 'info' ? '' : `${level.toUpperCase()} `;
    this.#append(`${new Date().toISOString()} ${mark}${sentence}`);
  }

  /** Whether there is nothing in Redis that would have to be brought up to date, and nothing that must be told. */
  get hasNothingToTell(): boolean {
    return this.#timer === undefined && this.#options.earlier === undefined;
  }

  /** Whether a layer has been applied in this run. */
  get hasApplied(): boolean {
    return this.#states.some(({ layers }) => layers.some(({ phase }) => phase === 'applied'));
  }

  async completed(): Promise<void> {
    this.#phase = 'completed';
    this.#applied = [];
    this.#failure = undefined;
    await this.#end();
  }

  /** `stalls`: how many of the job's stalls this failure has counted, if it is about them. */
  async failed(failure: Failure, stalls = this.#stallsBefore): Promise<void> {
    this.#phase = 'failed';
    this.#failure = failure;
    this.#failures = withFailure(this.#failures, failure);
    this.#applied = [];
    this.#stallsBefore = stalls;
    await this.#end();
  }

  /** The job goes on elsewhere, or later: write what is left of the log. */
  async handedBack(more: { readonly waiting?: WaitingFor; readonly storeFaults?: number } = {}): Promise<void> {
    this.#waiting = more.waiting;
    this.#storeFaults = more.storeFaults ?? this.#storeFaults;
    this.#applied = withApplied(this.#applied, this.#states);
    await this.#end();
  }

  /** The job is another worker's: write nothing more. */
  abandon(): void {
    this.#over = true;
    clearInterval(this.#timer);
  }

  #append(line: string): void {
    this.#lines = this.#lines
      .then(() => (this.#over ? undefined : this.#job.log(line)))
      .catch((error) => this.#ignore(error));
  }

  async #end(): Promise<void> {
    this.start();
    clearInterval(this.#timer);
    await this.#writing;
    this.#write();
    await this.#writing;
    await this.#lines;
    this.#over = true;
  }

  #write(): void {
    // while Redis is slow or away, one write waits and the next takes what is true by then
    if (this.#over || this.#writing !== undefined) return;
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
    const { attempt, attempts, worker } = this.#options;
    return {
      version: 1,
      phase: this.#phase,
      attempt,
      attempts,
      worker,
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
    // the state of Redis is told once, for all jobs
    if (redisTrouble(error) === undefined)
      this.#options.log.warn({ err: error }, 'the progress of a job could not be written');
  }
}

export function resolvedSentence({ platform, manifestDigest, layers }: ImageState): string {
  const size = bytesText(layers.reduce((sum, layer) => sum + layer.size, 0));
  const what = [platform, manifestDigest === undefined ? undefined : shortDigest(manifestDigest)].filter(
    (part) => part !== undefined,
  );
  return `image resolved${what.length === 0 ? '' : ` (${what.join(', ')})`}: ${count(layers.length, 'layer')}, ${size}`;
}

export function completedSentence({ images, durationMs }: UnpackResult): string {
  const layers = images.flatMap((image) => image.layers);
  const applied = layers.filter((layer) => layer.state === 'applied').length;
  return `completed in ${durationText(durationMs)}: ${count(applied, 'layer')} applied, ${layers.length - applied} existed`;
}

export function failedSentence(failure: Failure, last: boolean): string {
  const next = last ? (failure.retryable ? 'no attempt is left' : 'it is not tried again') : 'it is tried again';
  return `attempt ${failure.attempt} of ${failure.attempts} failed, ${next}: ${failedReason(failure)}`;
}

/** A wish is no fault: the end of a job that somebody asked for is no error in a log. */
export function failedLevel(failure: Failure, last: boolean): 'info' | 'warn' | 'error' {
  if (failure.code === 'CANCELLED') return 'info';
  return last ? 'error' : 'warn';
}
