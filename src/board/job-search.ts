import type { JobState } from '../queue/job-status.ts';
import type { JobLists, ListedJob } from './job-list.ts';

/** The most interesting states come first. */
const SEARCHED: readonly JobState[] = ['active', 'failed', 'waiting', 'prioritized', 'delayed', 'completed'];
/** The number of jobs in one round trip. */
const CHUNK = 500;
const MOST = 50;
/** Milliseconds after which a search gives what it has found, so that a page takes less than a second. */
const TIME = 600;

/** Where a search continues. */
export interface SearchPlace {
  readonly state: JobState;
  readonly from: number;
}

export interface Found {
  readonly jobs: readonly ListedJob[];
  /** The number of jobs that were looked at. */
  readonly searched: number;
  /** `undefined` if all jobs were looked at. */
  readonly next: SearchPlace | undefined;
}

/** Jobs whose image contains a text, in any case of letters. It reads payloads in chunks, because Redis has no index of images. */
export async function searchImages(lists: JobLists, query: string, place: SearchPlace | undefined): Promise<Found> {
  const wanted = query.toLowerCase();
  const end = performance.now() + TIME;
  const jobs: ListedJob[] = [];
  let searched = 0;
  const first = Math.max(0, SEARCHED.indexOf(place?.state ?? 'active'));
  for (const state of SEARCHED.slice(first)) {
    let from = state === place?.state ? place.from : 0;
    while (true) {
      const isEnough = jobs.length >= MOST || performance.now() > end;
      if (isEnough) return { jobs, searched, next: { state, from } };
      const ids = await lists.ids(state, from, CHUNK);
      if (ids.length === 0) break;
      const payloads = await lists.payloads(ids);
      const likely = ids.filter((_, index) => mayContain(payloads[index] ?? '', wanted));
      const read = await lists.read(state, likely);
      const matching = read.filter(({ image }) => image?.toLowerCase().includes(wanted));
      const room = MOST - jobs.length;
      jobs.push(...matching.slice(0, room));
      const last = matching.length > room ? jobs.at(-1) : undefined;
      const seen = last === undefined ? ids.length : ids.indexOf(last.id) + 1;
      searched += seen;
      from += seen;
    }
  }
  return { jobs, searched, next: undefined };
}

/** Whether it is worth to parse a payload. In JSON with escapes (PHP escapes slashes) the text may not be seen. */
function mayContain(payload: string, wanted: string): boolean {
  return payload.includes('\\') || payload.toLowerCase().includes(wanted);
}
