import { DelayedError, type Job, WaitingError } from 'bullmq';
import type { Config } from '../config.ts';
import { abortError, throwIfAborted, toUnpackError, UnpackError } from '../errors.ts';
import type { ImageState } from '../image/progress.ts';
import type { StoreKeeper, Unpacker } from '../image/unpack.ts';
import type { LockWait } from '../rootfs/lock-waits.ts';
import { durationText } from '../units.ts';
import type { CancelFlags } from './cancel-flags.ts';
import { cancelledError } from './cancellation.ts';
import { existedSentence } from './derived-progress.ts';
import { failedReason } from './failure.ts';
import { FAST_PATH_LIMIT, fastPath, type PendingLookup } from './fast-path.ts';
import type { AppliedLayer, Progress, UnpackResult, WaitingFor } from './formats.ts';
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
import { LayerLocked, type ParkedJobs, type ParkOptions } from './parked-jobs.ts';
import { imageOf, type ParsedJob, payloadParser, type SourcePolicy } from './parse-payload.ts';
import { appliedBefore, progressBefore } from './progress.ts';
import { readProgress } from './progress-schema.ts';
import { JobReporter } from './reporter.ts';
import { resultOf, type WorkerFacts } from './result.ts';
import {
  checkStalls,
  decideRetry,
  errorForBullMQ,
  fillRetryOptions,
  MAX_STORE_FAULTS,
  maybeStoreFault,
  type RetrySettings,
} from './retries.ts';
import type { StoreGuard } from './store-guard.ts';
import { after, endOrAbandon } from './time-limit.ts';
import { observedJob, type RunEnd, type WorkerObserver } from './worker-observer.ts';

export type ProcessorSettings = RetrySettings & Pick<Config, 'UNPACK_JOB' | 'UNPACK_JOB_TIMEOUT' | 'UNPACK_LOCK'>;

export interface ProcessorOptions {
  readonly unpacker: Unpacker;
  readonly keeper: Pick<StoreKeeper, 'heldElsewhere'> | undefined;
  readonly guard: Pick<StoreGuard, 'fault' | 'examine'>;
  /** Whether the worker shuts down, and so takes no more jobs. */
  readonly isStopping: () => boolean;
  readonly parked: Pick<ParkedJobs, 'park' | 'nextPlace'>;
  readonly settings: ProcessorSettings;
  readonly policy: SourcePolicy;
  readonly facts: WorkerFacts;
  readonly running: RunningJobs;
  /** Requests of other processes to cancel a job. */
  readonly cancelFlags: Pick<CancelFlags, 'isUnset' | 'reason' | 'clear'>;
  /** Sends the commands to Redis that follow in this turn of the event loop with one write. */
  readonly gatherWrites: () => void;
  readonly observer?: WorkerObserver | undefined;
  readonly log: Logger;
}

const LOG_LINES_KEPT = 1000;

/**
 * One run of one attempt of a job. If the job of an attempt is given back to the queue, the attempt has several runs.
 */
interface Attempt {
  readonly job: Job;
  readonly token: string | undefined;
  readonly run: JobRun;
  readonly reporter: JobReporter;
  /** The progress that earlier runs have written. */
  readonly earlier: Progress | undefined;
  /** Counted from 1. */
  readonly number: number;
  readonly attempts: number;
  /** Milliseconds since 1970. The time in which the job was parked is included. */
  readonly started: number;
  /** The lock that the earlier run of this attempt waited for. */
  readonly waited: WaitingFor | undefined;
  /** Layers that earlier runs of this attempt have applied. */
  readonly applied: readonly AppliedLayer[];
  /** The place of the job among parked jobs. */
  readonly place: number;
  readonly timers: (() => void)[];
  readonly log: Logger;
  /** What observers are told of this run when it ends. */
  readonly observed: RunFacts;
}

interface RunFacts {
  /** Milliseconds since 1970. */
  readonly began: number;
  resolveMs: number | undefined;
  /** Milliseconds since 1970. */
  lookedUp: number | undefined;
  images: readonly ImageState[];
}

/**
 * Makes the function that BullMQ calls for each job. It runs one attempt: parse the payload, look the image up, unpack it,
 * report. It returns the result, or throws an error that decides what BullMQ does with the job:
 *
 * - Error `[CODE] sentence`: the attempt failed; retry after a backoff, while attempts are left
 * - UnrecoverableError `[CODE] sentence`: the job failed for good
 * - WaitingError or DelayedError: the job has been given back, or its lock is lost; change nothing
 *
 * A job whose image is in the store already completes on the fast path (`fast-path.ts`), which writes only the result into
 * Redis.
 */
export function createProcessor(options: ProcessorOptions): (job: Job, token?: string) => Promise<UnpackResult> {
  const { settings, facts, running, unpacker, keeper, guard, parked, cancelFlags, observer } = options;
  const parse = payloadParser(options.policy);
  const takeFastPath = fastPath({ ...options, parse, jobName: settings.UNPACK_JOB });

  return async (job, token) => {
    // before everything else, because BullMQ itself can fail a job at any time
    fillRetryOptions(job.opts, settings);
    if (options.isStopping() || guard.fault !== undefined) {
      // BullMQ can take one more job while the worker pauses
      await giveBack(job, token, { delay: 0, place: parked.nextPlace() }, options.log);
      throw new DelayedError('the worker takes no jobs');
    }
    const fast = await takeFastPath(job);
    if ('result' in fast) return fast.result;
    const attempt = startAttempt(job, token, fast.lookup);
    const cancelChecked = checkCancelFlag(attempt.run);
    try {
      return await unpackJob(attempt, fast.lookup, cancelChecked);
    } catch (thrown) {
      // a cancel request that arrived while the job waited takes precedence over any failure
      if (!attempt.run.signal.aborted) await cancelChecked.catch(() => {});
      return await endAttempt(attempt, thrown);
    } finally {
      for (const cancelTimer of attempt.timers) cancelTimer();
      running.remove(attempt.run);
    }
  };

  function startAttempt(job: Job, token: string | undefined, lookup: PendingLookup | undefined): Attempt {
    const id = job.id ?? '';
    job.opts.keepLogs ??= LOG_LINES_KEPT;
    const number = job.attemptsMade + 1;
    const earlier = progressBefore(readProgress(job.progress), number);
    // a retry by hand adds an attempt
    const attempts = Math.max(job.opts.attempts ?? 0, number);
    const waited = waitedBefore(earlier, number);
    const applied = appliedBefore(earlier, number);
    const image = imageOf(job.data);
    const log = options.log.child({ job: id, ...(image === undefined ? {} : { image }) });
    const opening =
      waited && `, which continues after ${durationText(Math.max(0, Date.now() - waited.since))} of waiting`;
    const worker = facts.worker.name;
    return {
      job,
      token,
      run: running.add(id, token, image),
      reporter: new JobReporter(job, {
        attempt: number,
        attempts,
        worker,
        lock: settings.UNPACK_LOCK,
        opening,
        earlier,
        applied,
        log,
      }),
      earlier,
      number,
      attempts,
      started: startOf(waited, lookup?.since ?? Date.now()),
      waited,
      applied,
      place: waited?.place ?? parked.nextPlace(),
      timers: [],
      log,
      observed: { began: lookup?.since ?? Date.now(), resolveMs: undefined, lookedUp: undefined, images: [] },
    };
  }

  function ends({ job, started, number, observed }: Attempt, end: RunEnd): void {
    observer?.runEnds?.({
      job: observedJob(job),
      end,
      started,
      ready: job.timestamp + (job.opts.delay ?? 0),
      runStarted: observed.began,
      attempt: number,
      resolveMs: observed.resolveMs,
      lookedUp: observed.lookedUp ?? observed.began,
      images: observed.images,
    });
  }

  /** Aborts the run if the job has been cancelled. @throws errors of Redis */
  function checkCancelFlag(run: JobRun): Promise<void> {
    const checked = cancelFlags.reason(run.id).then((reason) => {
      if (reason !== null) run.abort(cancelledError(reason));
    });
    checked.catch(() => {});
    return checked;
  }

  async function unpackJob(
    attempt: Attempt,
    lookup: PendingLookup | undefined,
    cancelChecked: Promise<void>,
  ): Promise<UnpackResult> {
    const { job, run, reporter, earlier, log } = attempt;
    const { signal } = run;
    lookup?.abortWith(signal);
    throwIfAborted(signal);
    const stalled = checkStalls(job.stalledCounter - (earlier?.stallsBefore ?? 0));
    if (stalled !== undefined) reporter.line('warn', stalled);
    const parsed = parseJob(job);
    startTimers(attempt, lookup);

    const found = await (lookup?.found ?? unpacker.lookUp(parsed, { signal, job: run.id }));
    attempt.observed.resolveMs = performance.now() - found.began;
    attempt.observed.lookedUp = Date.now() - attempt.observed.resolveMs;
    await cancelChecked;
    throwIfAborted(signal);
    if (found.existing !== undefined && reporter.canStaySilent) {
      const result = resultOf(parsed.image, found.existing, facts, attempt);
      attempt.observed.images = found.existing;
      ends(attempt, { kind: 'existed' });
      if (log.isLevelEnabled('info')) log.info({ durationMs: result.durationMs }, existedSentence(result));
      return result;
    }
    if (found.existing === undefined) abortIfStillLocked(attempt);
    throwIfAborted(signal);

    reporter.start();
    const images = await endOrAbandon(
      signal,
      unpacker.unpack(found, {
        labels: parsed.labels,
        signal,
        owner: { worker: facts.worker.name, job: run.id },
        onBlocked: (wait) => run.abort(new LayerLocked(wait)),
        onResolved: (states) => {
          run.phase = 'unpacking';
          attempt.observed.images = states;
          reporter.resolved(states);
        },
        watcher: observer?.layers,
        log: (level, sentence, fields) => reporter.line(level, sentence, fields),
      }),
    );
    if (isLockLost(signal)) throw abortError(signal);
    const result = resultOf(parsed.image, images, facts, attempt);
    ends(attempt, { kind: isExisting(images, attempt.applied) ? 'existed' : 'completed' });
    await reporter.completed(result);
    await cancelFlags.clear(run.id);
    return result;
  }

  /** @throws UnpackError INVALID_JOB, SOURCE_NOT_ALLOWED */
  function parseJob({ name, data }: Job): ParsedJob {
    if (name !== settings.UNPACK_JOB) {
      throw new UnpackError(
        'INVALID_JOB',
        `the job is named ${JSON.stringify(name)}, but this worker accepts only ${JSON.stringify(settings.UNPACK_JOB)} (UNPACK_JOB)`,
      );
    }
    return parse(data);
  }

  /** Starts the time limit of the attempt, and the timer that shows its progress. */
  function startTimers({ run, reporter, started, waited, timers }: Attempt, lookup: PendingLookup | undefined): void {
    const limit = settings.UNPACK_JOB_TIMEOUT;
    const untilShown = lookup === undefined ? FAST_PATH_LIMIT : FAST_PATH_LIMIT - (Date.now() - lookup.since);
    timers.push(
      after(Math.max(0, limit - (Date.now() - started)), () => run.abort(timedOut(limit, waited))),
      // the progress of a parked job already has the lock that the job waits for
      after(waited === undefined ? Math.max(0, untilShown) : 4 * FAST_PATH_LIMIT, () => reporter.start()),
    );
  }

  /** Parks the job again at once if its layer is still locked. At this point the run has written nothing. */
  function abortIfStillLocked({ waited, run }: Attempt): void {
    const chainId = waited && layerOf(waited);
    const wait = chainId && keeper?.heldElsewhere(chainId);
    if (wait !== undefined) run.abort(new LayerLocked(wait));
  }

  /** Handles a run without a result: gives the job back, or records the failed attempt. */
  async function endAttempt(attempt: Attempt, thrown: unknown): Promise<never> {
    const { job, run, reporter, earlier } = attempt;
    const { signal } = run;
    if (isLockLost(signal)) return abandon(attempt);
    if (signal.reason instanceof LayerLocked) return park(attempt, signal.reason.wait);
    const error = signal.aborted ? abortError(signal) : toUnpackError(thrown);
    if (error.code === 'SHUTTING_DOWN') return giveBackForShutdown(attempt, error);
    if (maybeStoreFault(error)) {
      const fault = await guard.examine(true);
      if (isLockLost(signal)) return abandon(attempt);
      const times = (earlier?.storeFaults ?? 0) + 1;
      if (fault !== undefined && times <= MAX_STORE_FAULTS) return giveBackForStore(attempt, error, fault, times);
    }
    const { failure, isLast } = decideRetry(error, attempt, earlier?.failures ?? []);
    ends(attempt, {
      kind: isLast ? 'failed' : 'retried',
      code: failure.code,
      message: failure.message,
      layerIndex: failure.layerIndex,
    });
    await reporter.failed(failure, isLast, error, error.code === 'STALLED' ? job.stalledCounter : undefined);
    if (isLast) await cancelFlags.clear(run.id);
    throw errorForBullMQ(failure, error);
  }

  function abandon(attempt: Attempt): never {
    const { reporter, log } = attempt;
    ends(attempt, { kind: 'given back', why: 'lock_lost' });
    reporter.abandon();
    log.warn('the lock on the job is lost, so this worker has stopped its work; another worker continues it');
    throw new WaitingError('lock lost');
  }

  async function giveBackForShutdown(attempt: Attempt, error: UnpackError): Promise<never> {
    const { job, token, reporter, started, log } = attempt;
    ends(attempt, { kind: 'given back', why: 'shutting_down' });
    reporter.line('info', `given back after ${durationText(Date.now() - started)}: ${error.message}`);
    await reporter.givenBack();
    await job.moveToWait(token).catch((error) => log.warn({ err: error }, NOT_GIVEN_BACK));
    throw new WaitingError('shutting down');
  }

  /** Gives the job back because another process has locked a layer. The attempt does not count. */
  async function park(attempt: Attempt, wait: LockWait): Promise<never> {
    const { job, token, reporter, earlier, waited, started, place, log } = attempt;
    ends(attempt, { kind: 'given back', why: 'layer_locked' });
    const facts = { wait, before: waited, started, place, limit: settings.UNPACK_JOB_TIMEOUT };
    const { waiting, delay } = nextWait(facts, Date.now());
    if (earlier !== undefined && waited !== undefined && isSameWait(waited, wait) && !reporter.hasApplied) {
      // nothing else has changed, so no log line is needed
      reporter.abandon();
      await job
        .updateProgress({ ...earlier, waiting })
        .catch((error) => log.warn({ err: error }, 'the progress of a job could not be written'));
    } else {
      const pause = `gives its slot back, and is tried again in ${durationText(delay)} or when the layer is free`;
      reporter.line('warn', `${waitingSentence(waiting)}; ${pause}`, { holder: wait.holder });
      await reporter.givenBack({ waiting });
    }
    const isFree = () => keeper?.heldElsewhere(wait.chainId) === undefined;
    await giveBack(job, token, { delay, place, isFree }, log);
    throw new DelayedError('another process has locked a layer');
  }

  /** Gives the job back because the store of this worker cannot be written. The attempt does not count. */
  async function giveBackForStore(
    attempt: Attempt,
    error: UnpackError,
    fault: UnpackError,
    storeFaults: number,
  ): Promise<never> {
    const { job, token, reporter, place, log } = attempt;
    ends(attempt, { kind: 'given back', why: 'store_faulty' });
    const why = fault.message === error.message ? '' : `; the store cannot be written: ${fault.message}`;
    reporter.line(
      'warn',
      `given back, not counted as an attempt (${storeFaults} of at most ${MAX_STORE_FAULTS} times): ${failedReason(error)}${why}`,
      { code: error.code },
    );
    await reporter.givenBack({ storeFaults });
    await giveBack(job, token, { delay: 0, place }, log);
    throw new DelayedError('the store cannot be written');
  }

  /** Parks the job. If parking fails, the job stalls, and another worker takes the job a little later. */
  async function giveBack(job: Job, token: string | undefined, place: ParkOptions, log: Logger): Promise<void> {
    await parked.park(job, token, place).catch((error) => log.warn({ err: error }, NOT_GIVEN_BACK));
  }
}

/** Whether all layers were in the store before this attempt. */
function isExisting(images: readonly ImageState[], applied: readonly AppliedLayer[]): boolean {
  return applied.length === 0 && images.every(({ layers }) => layers.every(({ phase }) => phase === 'existed'));
}

const NOT_GIVEN_BACK = 'the job could not be given back';

function timedOut(limit: number, waited: WaitingFor | undefined): UnpackError {
  const why = waited === undefined ? '' : `; ${waitedSentence(waited, Date.now())}`;
  return new UnpackError('TIMED_OUT', `the attempt took longer than ${durationText(limit)} (UNPACK_JOB_TIMEOUT)${why}`);
}

function isLockLost(signal: AbortSignal): boolean {
  return signal.aborted && signal.reason instanceof LockLostError;
}
