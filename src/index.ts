/**
 * The public API: what a producer needs to enqueue images, wait for them and cancel them.
 */
export { type Config, ConfigError, loadConfig } from './config.ts';
export { FAILURE_CODES, type FailureCode, type FailureDetails, UnpackError } from './errors.ts';
export { deduplicationId, deduplicationText } from './queue/deduplication.ts';
export { JobNotFoundError, QueueUnavailableError, UnreadableJobError, WaitTimeoutError } from './queue/errors.ts';
export type { Failure } from './queue/failure.ts';
export type { JobState, JobStatus } from './queue/job-status.ts';
export type { WaitOptions } from './queue/job-waiter.ts';
export { checkPayload } from './queue/parse-payload.ts';
export type { Payload } from './queue/payload-schema.ts';
export { type AddOptions, type JobHandle, UnpackQueue } from './queue/producer.ts';
export type { Progress } from './queue/progress.ts';
export type { UnpackResult } from './queue/result.ts';
