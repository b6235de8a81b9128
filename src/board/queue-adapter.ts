import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import type { Job, Queue } from 'bullmq';
import { imageOf } from '../queue/parse.ts';
import { schemaFiles } from '../queue/schemas.ts';

/**
 * The queue as Bull Board shows it: a job under the name of its image, and a Retry that gives a job all its attempts
 * again (BullMQ's own would continue the count, which leaves one).
 */
export class UnpackQueueAdapter extends BullMQAdapter {
  constructor(queue: Queue) {
    super(queue, {
      description: 'Container images to unpack',
      jobDataSchema: schemaFiles()['payload.schema.json'] ?? {},
    });
    this.setFormatter('name', (job: { data?: unknown; name?: string }) => imageOf(job.data) ?? job.name ?? '');
  }

  override async getJob(id: string): Promise<Job | undefined> {
    const job = await super.getJob(id);
    return job === undefined ? undefined : withFreshRetry(job);
  }

  override async getJobs(...args: Parameters<BullMQAdapter['getJobs']>): Promise<Job[]> {
    return (await super.getJobs(...args)).map(withFreshRetry);
  }
}

function withFreshRetry(job: Job): Job {
  const retry = job.retry.bind(job);
  job.retry = (state, options) => retry(state, { resetAttemptsMade: true, ...options });
  return job;
}
