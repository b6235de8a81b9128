import { type Job, UnrecoverableError, WaitingError } from 'bullmq';
import type { Config } from '../config.ts';
import { abortError, throwIfAborted, toUnpackError, UnpackError } from '../errors.ts';
import type { ImageState } from '../image/progress.ts';
import type { UnpackedImage, Unpacker } from '../image/unpack.ts';
import { shortDigest } from '../oci/digest.ts';
import { type RetrySettings, settleAttempts } from './attempts.ts';
import type { CancelFlags } from './cancel-flags.ts';
import { cancelledError } from './cancellation.ts';
import { type Failure, failedReason, failureOf, isRetryable } from './failure.ts';
import type { Logger } from './log.ts';
import { imageOf, payloadParser, type SourcePolicy } from './parse.ts';
import { readProgress } from './progress-schema.ts';
import { quietSentence } from './quiet-job.ts';
import { quietProcessor } from './quiet-processor.ts';
import { JobReporter } from './reporter.ts';
import { resultOf, type UnpackResult, type WorkerFacts } from './result.ts';
import { LockLostError, type RunningJobs } from './running-jobs.ts';
import { bytesText, count, durationText } from './text.ts';

export type ProcessorSettings = RetrySettings & Pick<Config, 'UNPACK_JOB' | 'UNPACK_JOB_TIMEOUT'>;

export interface ProcessorOptions {
  readonly unpacker: Unpacker;
  readonly settings: ProcessorSettings;
  readonly policy: SourcePolicy;
  readonly facts: WorkerFacts;
  readonly running: RunningJobs;
  /** Set by other processes to stop a job. */
  readonly cancelFlags: Pick<CancelFlags, 'isUnset' | 'reason' | 'clear'>;
  readonly log: Logger;
}

/** Stalls after which a job is thought to be what kills its workers. */
export const MAX_STALLS = 5;
/** Milliseconds that aborted work gets to unwind before its job is given up anyway. */
const UNWIND_LIMIT = 30_000;
const LOG_LINES_KEPT = 1000;
/** Milliseconds that a job may look for its image before it shows: as long as between two writes of its progress. */
const QUIET = 250;

/**
 * One attempt of one job, as BullMQ calls it: parse, look, unpack, report. It returns the result, or throws what tells
 * BullMQ how to go on:
 *
 * - an Error `[CODE] sentence`: the attempt failed and another may follow, after a backoff
 * - an UnrecoverableError `[CODE] sentence`: the job failed for good
 * - a WaitingError: the job is somewhere else already (given back at shutdown, or lost), leave it alone
 *
 * While a job only looks, for QUIET at most, it writes nothing into Redis, and one that finds everything there ends so: its
 * result is all there is to say (`quiet-job.ts`).
 */
export function createProcessor(options: ProcessorOptions): (job: Job, token?: string) => Promise<UnpackResult> {
  const { settings, facts, running, unpacker, cancelFlags } = options;
  const parse = payloadParser(options.policy);
  const quietly = quietProcessor({ ...options, parse, jobName: settings.UNPACK_JOB });

  return async (job, token) => {
    // first of all, because BullMQ can fail a job by itself, too
    settleAttempts(job.opts, settings);
    return (await quietly(job)) ?? thoroughly(job, token);
  };

  async function thoroughly(job: Job, token: string | undefined): Promise<UnpackResult> {
    const id = job.id ?? '';
    job.opts.keepLogs ??= LOG_LINES_KEPT;
    const earlier = readProgress(job.progress);
    const number = job.attemptsMade + 1;
    // a retry by hand is one more attempt than the job had
    const attempt = { number, of: Math.max(job.opts.attempts ?? 0, number), started: Date.now() };
    const image = imageOf(job.data);
    const log = options.log.child({ job: id, ...(image === undefined ? {} : { image }) });
    const signal = running.add(id);
    const reporter = new JobReporter(job, {
      attempt: number,
      attempts: attempt.of,
      worker: facts.worker.name,
      earlier,
      log,
    });
    // a flag that was set while the job waited counts more than what its attempt comes to; whoever waits for it is told
    const flagSeen = cancelFlags.reason(id).then((reason) => {
      if (reason !== null) running.abort(id, cancelledError(reason));
    });
    flagSeen.catch(() => {});
    const timers: NodeJS.Timeout[] = [];

    try {
      throwIfAborted(signal);
      checkStalls(job, earlier?.stallsBefore ?? 0, reporter);
      if (job.name !== settings.UNPACK_JOB) {
        throw new UnpackError(
          'INVALID_JOB',
          `the job is named ${JSON.stringify(job.name)}, and this worker does ${JSON.stringify(settings.UNPACK_JOB)}`,
        );
      }
      const parsed = parse(job.data);
      timers.push(
        setTimeout(() => running.abort(id, timedOut(settings.UNPACK_JOB_TIMEOUT)), settings.UNPACK_JOB_TIMEOUT),
        setTimeout(() => reporter.start(), QUIET),
      );
      const found = await unpacker.look(parsed.source, parsed.request, signal);
      await flagSeen;
      throwIfAborted(signal);
      if (found.there !== undefined && reporter.hasNothingToTell) {
        const result = resultOf(parsed.image, found.there, facts, attempt);
        if (log.isLevelEnabled('info')) log.info({ durationMs: result.durationMs }, quietSentence(result));
        return result;
      }
      reporter.start();
      const images = await unwinding(
        signal,
        unpacker.unpack(parsed.source, parsed.request, {
          found,
          labels: parsed.labels,
          signal,
          onResolved: (states) => {
            reporter.resolved(states);
            for (const state of states) reporter.line('info', resolvedSentence(state));
          },
          log: (level, sentence, fields) => reporter.line(level, sentence, fields),
        }),
      );
      if (isLost(signal)) throw abortError(signal);
      const result = resultOf(parsed.image, images, facts, attempt);
      reporter.line('info', completedSentence(images, result.durationMs), { durationMs: result.durationMs });
      await reporter.completed();
      await cancelFlags.clear(id);
      return result;
    } catch (thrown) {
      if (!signal.aborted) await flagSeen.catch(() => {});
      if (isLost(signal)) {
        reporter.abandon();
        log.warn('the lock on the job is lost, so its work here was stopped; whoever has it now goes on');
        throw new WaitingError('lock lost');
      }
      const error = signal.aborted ? abortError(signal) : toUnpackError(thrown);
      if (error.code === 'SHUTTING_DOWN') {
        reporter.line('info', `given back after ${durationText(Date.now() - attempt.started)}: ${error.message}`);
        await reporter.handedBack();
        // if that fails the job stalls, and comes back a little later
        await job.moveToWait(token).catch((error) => log.warn({ err: error }, 'the job could not be given back'));
        throw new WaitingError('shutting down');
      }
      // by then, another attempt has been shown not to help
      const retryable = error.code !== 'STALLED' && isRetryable(error.code, earlier?.failures ?? []);
      const failure = failureOf(error, { attempt: number, attempts: attempt.of }, retryable);
      const last = !failure.retryable || number >= attempt.of;
      reporter.line(last ? 'error' : 'warn', failedSentence(failure, last), {
        code: error.code,
        ...(error.code === 'INTERNAL' ? { err: error } : {}),
      });
      await reporter.failed(failure, error.code === 'STALLED' ? job.stalledCounter : undefined);
      if (last) await cancelFlags.clear(id);
      throw thrownFor(failure, error);
    } finally {
      for (const timer of timers) clearTimeout(timer);
      running.remove(id, signal);
    }
  }
}

/** @throws UnpackError STALLED when the job has outlived more than MAX_STALLS workers */
function checkStalls(job: Job, before: number, reporter: JobReporter): void {
  const stalls = job.stalledCounter - before;
  if (stalls <= 0) return;
  if (stalls > MAX_STALLS) {
    throw new UnpackError(
      'STALLED',
      `the job's worker went silent ${stalls} times (it was killed, or ran out of memory?), so it is not tried again; retry it by hand when the cause is gone`,
    );
  }
  reporter.line('warn', `taken over from a worker that went silent (${stalls} of at most ${MAX_STALLS} times)`);
}

function timedOut(limit: number): UnpackError {
  return new UnpackError('TIMED_OUT', `the attempt took longer than ${durationText(limit)} (UNPACK_JOB_TIMEOUT)`);
}

function isLost(signal: AbortSignal): boolean {
  return signal.aborted && signal.reason instanceof LockLostError;
}

/** What the work comes to, or the abort's reason when the work has not ended 30 s after it was asked to. */
async function unwinding<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let onAbort = () => {};
  const tooLate = new Promise<never>((_, reject) => {
    onAbort = () => {
      timer = setTimeout(() => reject(abortError(signal)), UNWIND_LIMIT);
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([work, tooLate]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
  }
}

/**
 * The error that BullMQ stores. Its stack is what the board shows under the reason: where the message says it all, that
 * is only the cause, and the place in the code where nobody foresaw the failure.
 */
function thrownFor(failure: Failure, error: UnpackError): Error {
  const reason = failedReason(failure);
  const thrown = failure.retryable ? new Error(reason) : new UnrecoverableError(reason);
  const cause = error.cause instanceof Error ? error.cause : undefined;
  const head = `attempt ${failure.attempt} of ${failure.attempts}, ${failure.at}\n${reason}`;
  let more = '';
  if (error.code === 'INTERNAL') more = `${cause?.stack ?? error.stack ?? ''}\n`;
  else if (cause !== undefined && !error.message.includes(cause.message))
    more = `caused by ${cause.name}: ${cause.message}\n`;
  thrown.stack = `${head}\n${more}`;
  return thrown;
}

function resolvedSentence({ platform, manifestDigest, layers }: ImageState): string {
  const size = bytesText(layers.reduce((sum, layer) => sum + layer.size, 0));
  const what = [platform, manifestDigest === undefined ? undefined : shortDigest(manifestDigest)].filter(
    (part) => part !== undefined,
  );
  return `image resolved${what.length === 0 ? '' : ` (${what.join(', ')})`}: ${count(layers.length, 'layer')}, ${size}`;
}

function completedSentence(images: readonly UnpackedImage[], duration: number): string {
  const layers = images.flatMap((image) => image.layers);
  const applied = layers.filter((layer) => layer.phase === 'applied').length;
  return `completed in ${durationText(duration)}: ${count(applied, 'layer')} applied, ${layers.length - applied} existed`;
}

function failedSentence(failure: Failure, last: boolean): string {
  const next = last ? (failure.retryable ? 'no attempt is left' : 'it is not tried again') : 'it is tried again';
  return `attempt ${failure.attempt} of ${failure.attempts} failed, ${next}: ${failedReason(failure)}`;
}
