import type { Job } from 'bullmq';
import type { Lookup, UnpackedImage, Unpacker } from '../image/unpack.ts';
import type { CancelFlags } from './cancel-flags.ts';
import { existedSentence } from './derived-progress.ts';
import type { UnpackResult } from './formats.ts';
import type { RunningJobs } from './job-runs.ts';
import type { Logger } from './log.ts';
import { imageOf, type ParsedJob } from './parse-payload.ts';
import { imageResults, type WorkerFacts, warningsOf } from './result.ts';
import { observedJob, type WorkerObserver } from './worker-observer.ts';

/** Time limit in milliseconds for the fast path: the interval between two writes of a job's progress. */
export const FAST_PATH_LIMIT = 250;

export interface FastPathOptions {
  readonly unpacker: Pick<Unpacker, 'lookUpCached' | 'lookUp'>;
  readonly jobName: string;
  /** @throws UnpackError */
  readonly parse: (data: unknown) => ParsedJob;
  readonly facts: WorkerFacts;
  readonly running: Pick<RunningJobs, 'isClosed'>;
  readonly cancelFlags: Pick<CancelFlags, 'isUnset'>;
  /** Sends the commands to Redis that follow in this turn of the event loop with one write. */
  readonly gatherWrites: () => void;
  readonly observer?: WorkerObserver | undefined;
  readonly log: Logger;
}

/** A pending lookup of the job's image. The normal path waits for this lookup instead of starting another. */
export interface PendingLookup {
  readonly found: Promise<Lookup>;
  /** The start of the lookup, in milliseconds since 1970. */
  readonly since: number;
  /** Aborts the lookup when the signal is aborted, with the signal's reason. */
  abortWith(signal: AbortSignal): void;
}

/** The result; or the pending lookup, if there is one. With a lookup, the fast path has done nothing else for the job. */
export type FastPathOutcome = { readonly result: UnpackResult } | { readonly lookup: PendingLookup | undefined };

/**
 * The fast path of a job: in its first attempt, and within FAST_PATH_LIMIT, all layers of its image are found in the store. At
 * most the tag is requested from the source. The reporter, the timers and the request for the cancel flag are not made, because
 * they would take longer than everything else (measured).
 */
export function fastPath(options: FastPathOptions): (job: Job) => Promise<FastPathOutcome> {
  const { unpacker, jobName, parse, facts, running, cancelFlags, gatherWrites, observer, log } = options;
  /** Jobs for one image share the array of its layers, so they share these parts of the result, too. */
  const results = new WeakMap<readonly UnpackedImage[], Pick<UnpackResult, 'images' | 'warnings'>>();

  return async (job) => {
    const { id = '', data } = job;
    if (job.name !== jobName || running.isClosed || !isFirstAttempt(job)) return { lookup: undefined };
    const started = Date.now();
    const parsed = parsedOrUndefined(parse, data);
    if (parsed === undefined) return { lookup: undefined };
    const isTag = parsed.request.target.kind === 'tag';
    const lookup = isTag ? startLookup(unpacker, parsed, started, id) : undefined;
    const existing =
      lookup === undefined ? await unpacker.lookUpCached(parsed) : (await withinLimit(lookup.found))?.existing;
    // jobs that have waited for the same request for a tag complete at the same time
    if (isTag) gatherWrites();
    if (existing === undefined || !cancelFlags.isUnset(id)) return { lookup };
    let shared = results.get(existing);
    if (shared === undefined) {
      shared = { images: imageResults(existing), warnings: warningsOf(existing) };
      results.set(existing, shared);
    }
    const result: UnpackResult = {
      version: 1,
      image: parsed.image,
      images: shared.images,
      worker: facts.worker,
      store: facts.store,
      startedAt: new Date(started).toISOString(),
      durationMs: Date.now() - started,
      attempts: 1,
      warnings: shared.warnings,
    };
    observer?.runEnds?.({
      job: observedJob(job),
      end: { kind: 'existed' },
      started,
      ready: job.timestamp + (job.opts.delay ?? 0),
      runStarted: started,
      attempt: 1,
      resolveMs: isTag ? result.durationMs : undefined,
      lookedUp: started,
      images: existing,
    });
    if (log.isLevelEnabled('info')) {
      log.info({ job: id, image: imageOf(data), durationMs: result.durationMs }, existedSentence(result));
    }
    return { result };
  };
}

function startLookup(unpacker: Pick<Unpacker, 'lookUp'>, parsed: ParsedJob, since: number, job: string): PendingLookup {
  const stop = new AbortController();
  const found = unpacker.lookUp(parsed, { signal: stop.signal, job });
  found.catch(() => {}); // the normal path reports the error
  return {
    found,
    since,
    abortWith(signal) {
      if (signal.aborted) stop.abort(signal.reason);
      else signal.addEventListener('abort', () => stop.abort(signal.reason), { once: true });
    },
  };
}

/** The lookup if it succeeds within FAST_PATH_LIMIT, else `undefined`. */
function withinLimit(found: Promise<Lookup>): Promise<Lookup | undefined> {
  return new Promise((resolve) => {
    const limit = setTimeout(resolve, FAST_PATH_LIMIT, undefined);
    const end = (lookup: Lookup | undefined): void => {
      clearTimeout(limit);
      resolve(lookup);
    };
    found.then(end, () => end(undefined));
  });
}

/** Jobs with a failed attempt or a stall take the normal path, because it updates the progress and logs the stall. */
function isFirstAttempt({ attemptsMade, stalledCounter, progress }: Job): boolean {
  return attemptsMade === 0 && stalledCounter === 0 && typeof progress !== 'object';
}

/** Ignores a faulty payload, because the normal path reports its faults. */
function parsedOrUndefined(parse: FastPathOptions['parse'], data: unknown): ParsedJob | undefined {
  try {
    return parse(data);
  } catch {
    return undefined;
  }
}
