/**
 * Redis did not answer in time, cannot be reached, or refuses what it is asked in the state that it is in. `message` says
 * which, and what to do. Nothing was waited for longer than the queue's time limit.
 */
export class QueueUnavailableError extends Error {
  override readonly name = 'QueueUnavailableError';
}

/** There is no such job: never was, or it has been removed since it ended (UNPACK_KEEP_COMPLETED, UNPACK_KEEP_FAILED). */
export class JobNotFoundError extends Error {
  override readonly name = 'JobNotFoundError';
  readonly jobId: string;

  constructor(jobId: string) {
    super(`there is no job ${jobId}: it never was, or it has been removed since it ended`);
    this.jobId = jobId;
  }
}

/**
 * What Redis holds of a job is not what this version writes: another program has written it, or a newer version. `message`
 * says which part.
 */
export class UnreadableJobError extends Error {
  override readonly name = 'UnreadableJobError';
}

/** `wait` gave up; the job itself goes on. */
export class WaitTimeoutError extends Error {
  override readonly name = 'WaitTimeoutError';
}

/** What there is to say of a job whose fields are not JSON. They are not quoted: nobody knows what they hold. */
export function unreadableJob(jobId: string): string {
  return `what Redis holds of job ${jobId} is not what BullMQ writes: remove the job, and add it again if it is wanted`;
}
