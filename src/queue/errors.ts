/** The errors of `UnpackQueue`, apart from UnpackError. */

/**
 * Redis did not answer within the queue's time limit, cannot be reached, or refuses a command. `message` has the cause, and
 * what to do.
 */
export class QueueUnavailableError extends Error {
  override readonly name = 'QueueUnavailableError';
}

/** The job does not exist. Finished jobs are removed after a time (UNPACK_KEEP_COMPLETED, UNPACK_KEEP_FAILED). */
export class JobNotFoundError extends Error {
  override readonly name = 'JobNotFoundError';
  readonly jobId: string;

  constructor(jobId: string) {
    super(`job ${jobId} does not exist: the ID is wrong, or the job was removed after it finished`);
    this.jobId = jobId;
  }
}

/**
 * The data of a job in Redis has another format: another program or a newer version has written it. `message` has the faulty
 * part.
 */
export class UnreadableJobError extends Error {
  override readonly name = 'UnreadableJobError';
}

/** `wait` reached its time limit. The job continues. */
export class WaitTimeoutError extends Error {
  override readonly name = 'WaitTimeoutError';
}

/** The message for a job whose fields are not JSON. The message does not quote the fields, because they can contain secrets. */
export function unreadableJob(jobId: string): string {
  return `job ${jobId} cannot be read, because its data in Redis is not JSON: remove the job, and add it again if you need it`;
}
