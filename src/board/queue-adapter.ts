import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import { Job, type Queue } from 'bullmq';
import { printable } from '../printable.ts';
import { derivedLog, derivedProgress } from '../queue/derived-progress.ts';
import { unreadableJob } from '../queue/errors.ts';
import type { Progress } from '../queue/formats.ts';
import { imageOf } from '../queue/parse-payload.ts';
import { readProgress } from '../queue/progress-schema.ts';
import { schemaFiles } from '../queue/schemas.ts';

/**
 * The queue for Bull Board, which only shows it. A job is shown with the name of its image.
 */
export class UnpackQueueAdapter extends BullMQAdapter {
  readonly #queue: Queue;

  constructor(queue: Queue) {
    super(queue, {
      description: 'Container images to unpack',
      readOnlyMode: true,
      jobDataSchema: schemaFiles()['payload.schema.json'] ?? {},
    });
    this.#queue = queue;
    this.setFormatter('name', (job: { data?: unknown; name?: string }) =>
      printable(imageOf(job.data) ?? job.name ?? ''),
    );
    // Bull Board draws a ring for a number named `progress`
    this.setFormatter('progress', (progress: unknown) => {
      const known = readProgress(progress);
      return known === undefined ? progress : { progress: percentOf(known), ...known };
    });
  }

  override async getJob(id: string): Promise<Job | undefined> {
    const job = await this.#readable(id, super.getJob(id));
    return job === undefined ? undefined : this.#shown(job);
  }

  override async getJobs(...args: Parameters<BullMQAdapter['getJobs']>): Promise<Job[]> {
    const jobs = await super.getJobs(...args).catch(async (error: unknown) => {
      if (!(error instanceof SyntaxError)) throw error;
      // one unreadable job must not hide the others
      const [states, start, end] = args;
      const ids = await this.#queue.getRanges(
        states.filter((state) => state !== 'paused'),
        start,
        end,
        false,
      );
      const each = await Promise.all(ids.map((id) => this.#readable(id, super.getJob(id))));
      return each.filter((job) => job !== undefined);
    });
    return jobs.map((job) => this.#shown(job));
  }

  /** Replaces a job whose fields are not JSON by a job that shows this error. */
  #readable(id: string, job: Promise<Job | undefined>): Promise<Job | undefined> {
    return job.catch((error: unknown) => {
      if (!(error instanceof SyntaxError)) throw error;
      const placeholder = new Job(this.#queue, 'cannot be read', {}, {}, id);
      placeholder.failedReason = unreadableJob(id);
      return placeholder;
    });
  }

  #shown(job: Job): Job {
    if (readProgress(job.progress) === undefined) job.progress = derivedProgress(job.returnvalue) ?? job.progress;
    return job;
  }

  /** The log of a job. A job whose image existed has written no lines, so its lines are derived from its result. */
  override async getJobLogs(id: string): Promise<string[]> {
    const lines = await super.getJobLogs(id);
    if (lines.length > 0) return lines;
    const job = await this.#readable(id, super.getJob(id));
    return job?.finishedOn === undefined ? [] : derivedLog(job.returnvalue, new Date(job.finishedOn));
  }
}

/** Percent of the bytes to fetch, or of the layers if no bytes must be fetched. */
function percentOf({ phase, bytesFetched, bytesTotal, layersDone, layersTotal }: Progress): number {
  const [done, total] = bytesTotal > 0 ? [bytesFetched, bytesTotal] : [layersDone, layersTotal];
  // an image can have no layers
  if (total === 0) return phase === 'completed' ? 100 : 0;
  return Math.floor((100 * done) / total);
}
