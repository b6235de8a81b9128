/**
 * The public API: what a producer needs to enqueue images, wait for them and cancel them.
 */
export { ConfigError, FAILURE_CODES, type FailureCode, type FailureDetails, UnpackError } from './errors.ts';
export { checkPayload } from './queue/check-payload.ts';
export type { QueueSettings } from './queue/connection.ts';
export { deduplicationId, deduplicationText } from './queue/deduplication.ts';
export { JobNotFoundError, QueueUnavailableError, UnreadableJobError, WaitTimeoutError } from './queue/errors.ts';
export type { Failure, Payload, Progress, UnpackResult } from './queue/formats.ts';
export type { JobState, JobStatus } from './queue/job-status.ts';
export type { WaitOptions } from './queue/job-waiter.ts';
export type { FailureCount, JobCounts, QueueOverview, WaitingJob } from './queue/overview.ts';
export {
  type AddOptions,
  type JobHandle,
  type QueueOptions,
  type TraceContext,
  UnpackQueue,
} from './queue/producer.ts';
export { queueSettings } from './queue/queue-settings.ts';
export type { RetryOutcome, RetryRefusal } from './queue/retry-jobs.ts';
export type { WorkerView } from './queue/worker-presence.ts';
