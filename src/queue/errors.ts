/** The errors of `UnpackQueue`, apart from UnpackError. */

/**
 * Redis did not answer within the queue's time limit, cannot be reached, or refuses a command. `message` says which, and what
 * to do.
 */
export class QueueUnavailableError extends Error {
  override readonly name = 'QueueUnavailableError';
}

/** The job does not exist. It may have been removed after it ended (UNPACK_KEEP_COMPLETED, UNPACK_KEEP_FAILED). */
export class JobNotFoundError extends Error {
  override readonly name = 'JobNotFoundError';
  readonly jobId: string;

  constructor(jobId: string) {
    super(`job ${jobId} does not exist: the ID is wrong, or the job was removed after it ended`);
    this.jobId = jobId;
  }
}

/** The data of a job in Redis has another format: another program or a newer version has written it. `message` says which part. */
export class UnreadableJobError extends Error {
  override readonly name = 'UnreadableJobError';
}

/** `wait` reached its time limit. The job continues. */
export class WaitTimeoutError extends Error {
  override readonly name = 'WaitTimeoutError';
}

/** The message for a job whose fields are not JSON. They are not quoted, because they may hold anything. */
export function unreadableJob(jobId: string): string {
  return `job ${jobId} cannot be read, because its data in Redis is not JSON: remove the job, and add it again if you need it`;
}
