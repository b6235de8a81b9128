import type { Job } from 'bullmq';
import type { Lookup, UnpackedImage, Unpacker } from '../image/unpack.ts';
import type { CancelFlags } from './cancel-flags.ts';
import type { RunningJobs } from './job-runs.ts';
import type { Logger } from './log.ts';
import { imageOf, type ParsedJob } from './parse-payload.ts';
import { quietSentence } from './quiet-job.ts';
import { imageResults, type UnpackResult, type WorkerFacts, warningsOf } from './result.ts';

/** Milliseconds that a job may look for its image before it shows: as long as between two writes of its progress. */
export const QUIET = 250;

export interface QuietOptions {
  readonly unpacker: Pick<Unpacker, 'lookUpCached' | 'lookUp'>;
  readonly jobName: string;
  /** @throws UnpackError */
  readonly parse: (data: unknown) => ParsedJob;
  readonly facts: WorkerFacts;
  readonly running: Pick<RunningJobs, 'isClosed'>;
  readonly cancelFlags: Pick<CancelFlags, 'isUnset'>;
  /** What is written into Redis until the running promises have come to rest goes out together. */
  readonly gatherWrites: () => void;
  readonly log: Logger;
}

/** A look at the image of a job that has begun and is not to be begun once more. */
export interface Looking {
  readonly found: Promise<Lookup>;
  /** When it began, by the clock on the wall. */
  readonly since: number;
  /** Ends it when the signal is aborted, for the signal's reason. */
  stopWith(signal: AbortSignal): void;
}

/** What the short way came to: a result, or what the long way goes on with; nothing else has been done then. */
export type Quiet = { readonly result: UnpackResult } | { readonly looking: Looking | undefined };

/**
 * The short way of a job whose first attempt finds everything there, within QUIET and with no more asked than what its tag
 * names now: none of what the long way needs (reporter, timers, the look at its flag) is made, because that would be more
 * than all the rest (measured).
 */
export function quietProcessor(options: QuietOptions): (job: Job) => Promise<Quiet> {
  const { unpacker, jobName, parse, facts, running, cancelFlags, gatherWrites, log } = options;
  /** What is shared by all who find an image there is one result, too. */
  const results = new WeakMap<readonly UnpackedImage[], Pick<UnpackResult, 'images' | 'warnings'>>();

  return async (job) => {
    const { id = '', data } = job;
    if (job.name !== jobName || running.isClosed || !isFirstAttempt(job)) return { looking: undefined };
    const started = Date.now();
    const parsed = ifRight(parse, data);
    if (parsed === undefined) return { looking: undefined };
    const isTag = parsed.request.target.kind === 'tag';
    const looking = isTag ? look(unpacker, parsed, started) : undefined;
    const there =
      looking === undefined
        ? await unpacker.lookUpCached(parsed.source, parsed.request)
        : (await soon(looking.found))?.existing;
    // jobs that have waited for one read end at the same time
    if (isTag) gatherWrites();
    if (there === undefined || !cancelFlags.isUnset(id)) return { looking };
    let shared = results.get(there);
    if (shared === undefined) {
      shared = { images: imageResults(there), warnings: warningsOf(there) };
      results.set(there, shared);
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
    if (log.isLevelEnabled('info')) {
      log.info({ job: id, image: imageOf(data), durationMs: result.durationMs }, quietSentence(result));
    }
    return { result };
  };
}

function look(unpacker: Pick<Unpacker, 'lookUp'>, { source, request }: ParsedJob, since: number): Looking {
  const stop = new AbortController();
  const found = unpacker.lookUp(source, request, stop.signal);
  found.catch(() => {}); // the long way tells
  return {
    found,
    since,
    stopWith(signal) {
      if (signal.aborted) stop.abort(signal.reason);
      else signal.addEventListener('abort', () => stop.abort(signal.reason), { once: true });
    },
  };
}

/** What has been found within QUIET; `undefined`: nothing yet, or it has failed. */
function soon(found: Promise<Lookup>): Promise<Lookup | undefined> {
  return new Promise((resolve) => {
    const limit = setTimeout(resolve, QUIET, undefined);
    const end = (lookup: Lookup | undefined): void => {
      clearTimeout(limit);
      resolve(lookup);
    };
    found.then(end, () => end(undefined));
  });
}

/** A job that was tried before has a progress to be mended, and one that went silent a line to be told. */
function isFirstAttempt({ attemptsMade, stalledCounter, progress }: Job): boolean {
  return attemptsMade === 0 && stalledCounter === 0 && typeof progress !== 'object';
}

/** What is wrong with a payload is for the long way to tell. */
function ifRight(parse: QuietOptions['parse'], data: unknown): ParsedJob | undefined {
  try {
    return parse(data);
  } catch {
    return undefined;
  }
}
