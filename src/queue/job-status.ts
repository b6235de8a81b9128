import type { Job } from 'bullmq';
import type { UnpackError } from '../errors.ts';
import { derivedProgress } from './derived-progress.ts';
import { errorFromReason, errorOf } from './failure.ts';
import type { Failure, Progress, UnpackResult } from './formats.ts';
import type { JobPlace } from './job-place.ts';
import { imageOf } from './parse-payload.ts';
import { readProgress } from './progress-schema.ts';
import { readResult } from './result-schema.ts';

export const JOB_STATES = ['waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed'] as const;
export type JobState = (typeof JOB_STATES)[number];

/** A job as `UnpackQueue.status` and `unpackd status` show it. */
export interface JobStatus {
  readonly id: string;
  readonly state: JobState;
  readonly image: string | undefined;
  /** Whether there is a cancel request for the job. The job fails with CANCELLED when a worker reads the request. */
  readonly cancelRequested: boolean;
  /** The number of failed attempts. */
  readonly attemptsMade: number;
  readonly progress: Progress | undefined;
  readonly result: UnpackResult | undefined;
  /** Why a completed job has no `result`, in a sentence: another program or a newer version has completed it. */
  readonly resultProblem: string | undefined;
  /** The failure of the last failed attempt. It is kept while the next attempt waits or runs. */
  readonly failure: Failure | undefined;
  readonly failedReason: string | undefined;
  readonly added: Date;
  readonly finished: Date | undefined;
  /** How many jobs workers take before this one, if no others are put before it; for a job that waits, with a priority or without. */
  readonly ahead: number | undefined;
  /** When a delayed job waits for a worker again. */
  readonly due: Date | undefined;
  /** For a running job: since when its worker has not renewed its lock, although it should have. */
  readonly silentSince: Date | undefined;
}

/** Converts BullMQ's job. */
export function statusOf(job: Job, bullState: string, cancelFlag: boolean, place: JobPlace = {}): JobStatus {
  // BullMQ reports `unknown` while it moves a job between two lists; the job then waits
  const state = JOB_STATES.find((one) => one === bullState) ?? 'waiting';
  const ended = state === 'completed' || state === 'failed';
  const progress = readProgress(job.progress) ?? (state === 'completed' ? derivedProgress(job.returnvalue) : undefined);
  const read = state === 'completed' ? readResult(job.id ?? '', job.returnvalue) : undefined;
  return {
    id: job.id ?? '',
    state,
    image: imageOf(job.data),
    cancelRequested: cancelFlag && !ended,
    attemptsMade: job.attemptsMade,
    progress,
    result: typeof read === 'string' ? undefined : read,
    resultProblem: typeof read === 'string' ? read : undefined,
    failure: progress?.failure,
    failedReason: job.failedReason || undefined,
    added: dateOf(job.timestamp),
    finished: ended && job.finishedOn ? dateOf(job.finishedOn) : undefined,
    ahead: place.ahead,
    due: place.due,
    silentSince: silentSince(state, progress?.lock, place.lockLeft),
  };
}

/** A worker renews its lock after half of its time. This share of it may pass in addition before the worker counts as silent. */
const LATE = 0.2;

/**
 * @param lock how long the worker locks the job, @param left how long it is still locked: milliseconds; a negative number if the
 *   lock has expired
 */
function silentSince(state: JobState, lock: number | undefined, left: number | undefined): Date | undefined {
  if (state !== 'active' || lock === undefined || left === undefined) return undefined;
  const age = lock - Math.max(0, left);
  return age > lock * (0.5 + LATE) ? new Date(Date.now() - age) : undefined;
}

/** Returns 1970 for an invalid time, because some clients of BullMQ write no time. */
function dateOf(milliseconds: number): Date {
  const date = new Date(milliseconds);
  return Number.isNaN(date.getTime()) ? new Date(0) : date;
}

/** The error of a failed job. */
export function jobError(status: Pick<JobStatus, 'failure' | 'failedReason'>): UnpackError {
  const { failure, failedReason } = status;
  // BullMQ itself can fail a job after the last failure that this program wrote
  if (failure !== undefined && (failedReason === undefined || failedReason.includes(failure.message)))
    return errorOf(failure);
  return errorFromReason(failedReason);
}
