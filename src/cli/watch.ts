import type { Progress, UnpackResult } from '../queue/formats.ts';
import type { JobStatus } from '../queue/job-status.ts';
import type { UnpackQueue } from '../queue/producer.ts';
import { EXIT_FAILED, explain } from './explain-error.ts';
import { placeLines, progressLines, resultLines } from './job-view.ts';
import { type Cli, LiveRegion } from './output.ts';
import { Pace } from './pace.ts';

/**
 * Waits until a job completes or fails, for `enqueue --watch` and `status --watch`. A terminal shows the progress. Then
 * it prints the result or the failure. An interrupt stops the waiting, not the job.
 * @param about fields to add to the JSON document
 */
export async function watchJob(queue: UnpackQueue, id: string, about: object, { out, signal }: Cli): Promise<void> {
  const region = new LiveRegion(out.live);
  const pace = new Pace();
  let status: JobStatus | undefined;
  let progress: Progress | undefined;
  const draw = () => {
    const place = status === undefined ? ['waits for a worker'] : placeLines(status);
    // while the job waits, its progress is that of an earlier run
    const isRunning = status?.state === 'active' || progress?.waiting !== undefined;
    const running =
      progress !== undefined && isRunning ? progressLines(progress, pace.speed(progress.bytesTotal), region.width) : [];
    region.draw([`job ${id}`, ...place, ...running]);
  };
  draw();
  let result: UnpackResult;
  try {
    result = await queue.wait(id, {
      signal,
      onProgress: (next) => {
        progress = next;
        pace.add(next.bytesFetched);
        // a job that writes progress runs
        if (status?.state === 'waiting' || status?.state === 'prioritized') status = { ...status, state: 'active' };
        draw();
      },
      onStatus: (next) => {
        status = next;
        pace.add(next.progress?.bytesFetched ?? 0);
        draw();
      },
    });
  } catch (error) {
    region.clear();
    if (signal.aborted) {
      out.note(`job ${id} continues; to cancel it, run unpackd cancel ${id}`);
      throw error;
    }
    const { code, message } = explain(error);
    if (code === 'REDIS_UNAVAILABLE' || code === 'JOB_NOT_FOUND' || code === 'JOB_UNREADABLE') throw error;
    const { failure } = await queue.status(id);
    out.result({ ...about, id, error: { code, message }, failure: failure ?? null }, () => []);
    const tries = failure === undefined ? '' : ` (attempt ${failure.attempt} of ${failure.attempts})`;
    out.note(`unpackd: [${code}] ${message}${tries}`);
    process.exitCode = EXIT_FAILED;
    return;
  }
  region.clear();
  out.result({ ...about, id, result }, () => resultLines(result));
}
