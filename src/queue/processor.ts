import { DelayedError, type Job, WaitingError } from 'bullmq';
import type { Config } from '../config.ts';
import { abortError, throwIfAborted, toUnpackError, UnpackError } from '../errors.ts';
import type { StoreKeeper, Unpacker } from '../image/unpack.ts';
import type { LockWait } from '../rootfs/lock-waits.ts';
import { durationText } from '../units.ts';
import type { CancelFlags } from './cancel-flags.ts';
import { cancelledError } from './cancellation.ts';
import { failedReason, failureOf } from './failure.ts';
import { type JobRun, LockLostError, type RunningJobs } from './job-runs.ts';
import type { Logger } from './log.ts';
import {
  isSameWait,
  layerOf,
  nextWait,
  startOf,
  waitedBefore,
  waitedSentence,
  waitingSentence,
} from './parked-attempt.ts';
import { HeldElsewhere, nextPlace, type ParkedJobs } from './parked-jobs.ts';
import { imageOf, payloadParser, type SourcePolicy } from './parse-payload.ts';
import { appliedBefore } from './progress.ts';
import { type AppliedLayer, type Progress, readProgress, type WaitingFor } from './progress-schema.ts';
import { quietSentence } from './quiet-job.ts';
import { type Looking, QUIET, quietProcessor } from './quiet-processor.ts';
import { completedSentence, failedLevel, failedSentence, JobReporter, resolvedSentence } from './reporter.ts';
import { resultOf, type UnpackResult, type WorkerFacts } from './result.ts';
import { isRetryable, type RetrySettings, settleAttempts, thrownFor } from './retries.ts';
import type { StoreGuard } from './store-guard.ts';
import { after, unwinding } from './time-limit.ts';

export type ProcessorSettings = RetrySettings & Pick<Config, 'UNPACK_JOB' | 'UNPACK_JOB_TIMEOUT'>;

export interface ProcessorOptions {
  readonly unpacker: Unpacker;
  readonly keeper: Pick<StoreKeeper, 'heldElsewhere'> | undefined;
  readonly guard: Pick<StoreGuard, 'fault' | 'examine'>;
  /** Whether the worker takes no more jobs because it shuts down. */
  readonly isStopping: () => boolean;
  readonly parked: Pick<ParkedJobs, 'park'>;
  readonly settings: ProcessorSettings;
  readonly policy: SourcePolicy;
  readonly facts: WorkerFacts;
  readonly running: RunningJobs;
  /** Set by other processes to stop a job. */
  readonly cancelFlags: Pick<CancelFlags, 'isUnset' | 'reason' | 'clear'>;
  /** What is written into Redis until the running promises have come to rest goes out together. */
  readonly gatherWrites: () => void;
  readonly log: Logger;
}

/** Stalls after which a job is thought to be what kills its workers. */
export const MAX_STALLS = 5;
/** How often a job goes back uncounted because the store could not be written: then it may be what breaks the disk. */
const MAX_STORE_FAULTS = 3;
const LOG_LINES_KEPT = 1000;

const NOT_WRITTEN = 'the progress of a job could not be written';

/** One attempt of one job, from when it was taken to what it comes to. */
interface Attempt {
  readonly job: Job;
  readonly token: string | undefined;
  readonly run: JobRun;
  readonly reporter: JobReporter;
  readonly earlier: Progress | undefined;
  readonly number: number;
  readonly of: number;
  /** By the clock on the wall, with the time in which it gave its slot back. */
  readonly started: number;
  /** What it gave its slot back for. */
  readonly waited: WaitingFor | undefined;
  /** What its earlier runs have applied. */
  readonly applied: readonly AppliedLayer[];
  /** Its place among the jobs that come back. */
  readonly place: number;
  readonly log: Logger;
}

/**
 * One attempt of one job, as BullMQ calls it: parse, look, unpack, report. It returns the result, or throws what tells
 * BullMQ how to go on:
 *
 * - an Error `[CODE] sentence`: the attempt failed and another may follow, after a backoff
 * - an UnrecoverableError `[CODE] sentence`: the job failed for good
 * - a WaitingError or DelayedError: the job is somewhere else already (given back, or lost), leave it alone
 *
 * While a job only looks, for QUIET at most, it writes nothing into Redis, and one that finds everything there ends so: its
 * result is all there is to say (`quiet-job.ts`).
 */
export function createProcessor(options: ProcessorOptions): (job: Job, token?: string) => Promise<UnpackResult> {
  const { settings, facts, running, unpacker, keeper, guard, parked, cancelFlags } = options;
  const parse = payloadParser(options.policy);
  const quietly = quietProcessor({ ...options, parse, jobName: settings.UNPACK_JOB });

  return async (job, token) => {
    // first of all, because BullMQ can fail a job by itself, too
    settleAttempts(job.opts, settings);
    if (options.isStopping() || guard.fault !== undefined) return untouched(job, token);
    const quiet = await quietly(job);
    return 'result' in quiet ? quiet.result : thoroughly(job, token, quiet.looking);
  };

  /** A job that was on its way here when the worker stopped to take jobs: BullMQ may take one more then. */
  async function untouched(job: Job, token: string | undefined): Promise<never> {
    const back = { delay: 0, place: nextPlace() };
    // if that fails the job stalls, and comes back a little later
    await parked
      .park(job, token, back)
      .catch((error) => options.log.warn({ err: error }, 'a job could not be given back'));
    throw new DelayedError('the worker takes no jobs');
  }

  async function thoroughly(job: Job, token: string | undefined, looking: Looking | undefined): Promise<UnpackResult> {
    const id = job.id ?? '';
    job.opts.keepLogs ??= LOG_LINES_KEPT;
    const earlier = readProgress(job.progress);
    const number = job.attemptsMade + 1;
    const waited = waitedBefore(earlier, number);
    const image = imageOf(job.data);
    const log = options.log.child({ job: id, ...(image === undefined ? {} : { image }) });
    // a retry by hand is one more attempt than the job had
    const of = Math.max(job.opts.attempts ?? 0, number);
    const run = running.add(id, token);
    const opening =
      waited && `, which goes on after ${durationText(Math.max(0, Date.now() - waited.since))} of waiting`;
    const names = { attempt: number, attempts: of, worker: facts.worker.name };
    const applied = appliedBefore(earlier, number);
    const reporter = new JobReporter(job, { ...names, opening, earlier, applied, log });
    const started = startOf(waited, looking?.since ?? Date.now());
    const place = waited?.place ?? nextPlace();
    const attempt: Attempt = { job, token, run, reporter, earlier, number, of, started, waited, applied, place, log };
    // a flag that was set while the job waited counts more than what its attempt comes to; whoever waits for it is told
    const flagSeen = cancelFlags.reason(id).then((reason) => {
      if (reason !== null) run.abort(cancelledError(reason));
    });
    flagSeen.catch(() => {});
    const timers: (() => void)[] = [];
    try {
      return await work(attempt, looking, flagSeen, timers);
    } catch (thrown) {
      if (!run.signal.aborted) await flagSeen.catch(() => {});
      return await failed(attempt, thrown);
    } finally {
      for (const cancel of timers) cancel();
      running.remove(run);
    }
  }

  async function work(
    attempt: Attempt,
    looking: Looking | undefined,
    flagSeen: Promise<void>,
    timers: (() => void)[],
  ): Promise<UnpackResult> {
    const { job, run, reporter, earlier, waited, log } = attempt;
    const { signal } = run;
    looking?.stopWith(signal);
    throwIfAborted(signal);
    checkStalls(job, earlier?.stallsBefore ?? 0, reporter);
    if (job.name !== settings.UNPACK_JOB) {
      throw new UnpackError(
        'INVALID_JOB',
        `the job is named ${JSON.stringify(job.name)}, and this worker does ${JSON.stringify(settings.UNPACK_JOB)}`,
      );
    }
    const parsed = parse(job.data);
    const quietLeft = looking === undefined ? QUIET : Math.max(0, QUIET - (Date.now() - looking.since));
    const left = Math.max(0, settings.UNPACK_JOB_TIMEOUT - (Date.now() - attempt.started));
    timers.push(
      after(left, () => run.abort(timedOut(settings.UNPACK_JOB_TIMEOUT, waited))),
      // one that goes on waiting has told so before
      after(waited === undefined ? quietLeft : 4 * QUIET, () => reporter.start()),
    );
    const found = await (looking?.found ?? unpacker.lookUp(parsed.source, parsed.request, signal));
    await flagSeen;
    throwIfAborted(signal);
    if (found.existing !== undefined && reporter.hasNothingToTell) {
      const result = resultOf(parsed.image, found.existing, facts, attempt);
      if (log.isLevelEnabled('info')) log.info({ durationMs: result.durationMs }, quietSentence(result));
      return result;
    }
    if (found.existing === undefined) stillHeld(attempt);
    throwIfAborted(signal);
    reporter.start();
    const images = await unwinding(
      signal,
      unpacker.unpack(found, {
        labels: parsed.labels,
        signal,
        owner: { worker: facts.worker.name, job: run.id },
        onBlocked: (wait) => run.abort(new HeldElsewhere(wait)),
        onResolved: (states) => {
          reporter.resolved(states);
          for (const state of states) reporter.line('info', resolvedSentence(state));
        },
        log: (level, sentence, fields) => reporter.line(level, sentence, fields),
      }),
    );
    if (isLost(signal)) throw abortError(signal);
    const result = resultOf(parsed.image, images, facts, attempt);
    reporter.line('info', completedSentence(result), { durationMs: result.durationMs });
    await reporter.completed();
    await cancelFlags.clear(run.id);
    return result;
  }

  /** Nothing is written in vain where the layer that the job has waited for is still locked. */
  function stillHeld({ waited, run }: Attempt): void {
    const chainId = waited && layerOf(waited);
    const wait = chainId && keeper?.heldElsewhere(chainId);
    if (wait !== undefined) run.abort(new HeldElsewhere(wait));
  }

  async function failed(attempt: Attempt, thrown: unknown): Promise<never> {
    const { job, token, run, reporter, earlier, number, of, started, log } = attempt;
    const { signal } = run;
    if (isLost(signal)) return lost(attempt);
    if (signal.reason instanceof HeldElsewhere) return park(attempt, signal.reason.wait);
    const error = signal.aborted ? abortError(signal) : toUnpackError(thrown);
    if (error.code === 'SHUTTING_DOWN') {
      reporter.line('info', `given back after ${durationText(Date.now() - started)}: ${error.message}`);
      await reporter.handedBack();
      // if that fails the job stalls, and comes back a little later
      await job.moveToWait(token).catch((error) => log.warn({ err: error }, 'the job could not be given back'));
      throw new WaitingError('shutting down');
    }
    if (blamesStore(error)) {
      const fault = await guard.examine(true);
      if (isLost(signal)) return lost(attempt);
      if (fault !== undefined && (earlier?.storeFaults ?? 0) < MAX_STORE_FAULTS) return giveBack(attempt, error, fault);
    }
    // after that many stalls another attempt does not help
    const retryable = error.code !== 'STALLED' && isRetryable(error.code, earlier?.failures ?? []);
    const failure = failureOf(error, { attempt: number, attempts: of }, retryable);
    const last = !failure.retryable || number >= of;
    reporter.line(failedLevel(failure, last), failedSentence(failure, last), {
      code: error.code,
      ...(error.code === 'INTERNAL' ? { err: error } : {}),
    });
    await reporter.failed(failure, error.code === 'STALLED' ? job.stalledCounter : undefined);
    if (last) await cancelFlags.clear(run.id);
    throw thrownFor(failure, error);
  }

  function lost({ reporter, log }: Attempt): never {
    reporter.abandon();
    log.warn('the lock on the job is lost, so its work here was stopped; whoever has it now goes on');
    throw new WaitingError('lock lost');
  }

  /** Gives the slot back while another process has locked a layer; no attempt is counted. */
  async function park(attempt: Attempt, wait: LockWait): Promise<never> {
    const { job, token, reporter, earlier, waited, started, place, log } = attempt;
    const facts = { wait, before: waited, started, place, limit: settings.UNPACK_JOB_TIMEOUT };
    const { waiting, delay } = nextWait(facts, Date.now());
    if (earlier !== undefined && waited !== undefined && isSameWait(waited, wait) && !reporter.hasApplied) {
      // nothing has changed since the job has told so
      reporter.abandon();
      await job.updateProgress({ ...earlier, waiting }).catch((error) => log.warn({ err: error }, NOT_WRITTEN));
    } else {
      const pause = `gives its slot back, is looked at again in ${durationText(delay)} or when the layer is free`;
      reporter.line('warn', `${waitingSentence(waiting)}; ${pause}`, { holder: wait.holder });
      await reporter.handedBack({ waiting });
    }
    const isFree = () => keeper?.heldElsewhere(wait.chainId) === undefined;
    // if that fails the job stalls, and comes back a little later
    await parked
      .park(job, token, { delay, place, isFree })
      .catch((error) => log.warn({ err: error }, 'the job could not be given back'));
    throw new DelayedError('another process has locked a layer');
  }

  /** Gives a job back that only this worker's store has failed; no attempt is counted. */
  async function giveBack(attempt: Attempt, error: UnpackError, fault: UnpackError): Promise<never> {
    const { job, token, reporter, earlier, place, log } = attempt;
    const storeFaults = (earlier?.storeFaults ?? 0) + 1;
    const why = fault.message === error.message ? '' : `; the store can't be written: ${fault.message}`;
    reporter.line(
      'warn',
      `given back, not counted as an attempt (${storeFaults} of at most ${MAX_STORE_FAULTS} times): ${failedReason(error)}${why}`,
      { code: error.code },
    );
    await reporter.handedBack({ storeFaults });
    await parked
      .park(job, token, { delay: 0, place })
      .catch((error) => log.warn({ err: error }, 'the job could not be given back'));
    throw new DelayedError('the store can not be written');
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

function timedOut(limit: number, waited: WaitingFor | undefined): UnpackError {
  const why = waited === undefined ? '' : `; ${waitedSentence(waited, Date.now())}`;
  return new UnpackError('TIMED_OUT', `the attempt took longer than ${durationText(limit)} (UNPACK_JOB_TIMEOUT)${why}`);
}

/** A disk that hangs fails nothing: the attempt takes too long. */
function blamesStore({ code }: UnpackError): boolean {
  return code === 'STORE_FULL' || code === 'STORE_FAILED' || code === 'TIMED_OUT';
}

function isLost(signal: AbortSignal): boolean {
  return signal.aborted && signal.reason instanceof LockLostError;
}
