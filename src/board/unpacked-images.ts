import type { JobLists, ListedJob } from './job-list.ts';

/** The images of the newest completed jobs, for `/images`. */
export interface UnpackedImage {
  readonly image: string;
  /** The newest job of the image. */
  readonly job: ListedJob;
  /** The number of completed jobs. */
  readonly jobs: number;
  /** The names of the workers that completed them. */
  readonly workers: readonly string[];
}

/** The number of jobs that are read. */
export const READ = 1000;

/** Newest first. */
export async function readUnpackedImages(lists: JobLists): Promise<UnpackedImage[]> {
  const jobs = await lists.read('completed', await lists.ids('completed', 0, READ));
  const images = new Map<string, ListedJob[]>();
  for (const job of jobs) {
    if (job.image === undefined) continue;
    const known = images.get(job.image);
    if (known === undefined) images.set(job.image, [job]);
    else known.push(job);
  }
  return [...images].flatMap(([image, all]) => {
    const [job] = all;
    const workers = [...new Set(all.flatMap(({ worker }) => worker ?? []))].sort();
    return job === undefined ? [] : [{ image, job, jobs: all.length, workers }];
  });
}
