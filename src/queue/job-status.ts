import type { Job } from 'bullmq';
import type { UnpackError } from '../errors.ts';
import { errorFromReason, errorOf, type Failure } from './failure.ts';
import { imageOf } from './parse-payload.ts';
import { type Progress, readProgress } from './progress-schema.ts';
import { quietProgress } from './quiet-job.ts';
import type { UnpackResult } from './result.ts';
import { readResult } from './result-schema.ts';

export const JOB_STATES = ['waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed'] as const;
export type JobState = (typeof JOB_STATES)[number];

export interface JobStatus {
  readonly id: string;
  readonly state: JobState;
  readonly image: string | undefined;
  /** Somebody has asked for its end; it fails with CANCELLED when a worker sees that. */
  readonly cancelRequested: boolean;
  /** Failed attempts so far. */
  readonly attemptsMade: number;
  readonly progress: Progress | undefined;
  readonly result: UnpackResult | undefined;
  /** Why a completed job has no `result`, in a sentence: another program, or a newer version, has written something else. */
  readonly resultProblem: string | undefined;
  /** Of the last attempt that failed, also while another one waits or runs. */
  readonly failure: Failure | undefined;
  readonly failedReason: string | undefined;
  readonly added: Date;
  readonly finished: Date | undefined;
}

/** A job as its caller sees it. */
export function statusOf(job: Job, bullState: string, cancelFlag: boolean): JobStatus {
  // a job between two of BullMQ's lists is about to wait
  const state = JOB_STATES.find((one) => one === bullState) ?? 'waiting';
  const ended = state === 'completed' || state === 'failed';
  const progress = readProgress(job.progress) ?? (state === 'completed' ? quietProgress(job.returnvalue) : undefined);
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
  };
}

/** 1970 for what is no time, as BullMQ's clients write none. */
function dateOf(milliseconds: number): Date {
  const date = new Date(milliseconds);
  return Number.isNaN(date.getTime()) ? new Date(0) : date;
}

/** The error that a failed job stands for. */
export function jobError(status: Pick<JobStatus, 'failure' | 'failedReason'>): UnpackError {
  const { failure, failedReason } = status;
  // BullMQ can fail a job by itself, after our last word on it
  if (failure !== undefined && (failedReason === undefined || failedReason.includes(failure.message)))
    return errorOf(failure);
  return errorFromReason(failedReason);
}
