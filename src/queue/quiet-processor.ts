import type { Job } from 'bullmq';
import type { UnpackedImage, Unpacker } from '../image/unpack.ts';
import type { CancelFlags } from './cancel-flags.ts';
import type { Logger } from './log.ts';
import { imageOf, type ParsedJob } from './parse.ts';
import { quietSentence } from './quiet-job.ts';
import { imageResults, type UnpackResult, type WorkerFacts, warningsOf } from './result.ts';
import type { RunningJobs } from './running-jobs.ts';

export interface QuietOptions {
  readonly unpacker: Pick<Unpacker, 'recall'>;
  readonly jobName: string;
  /** @throws UnpackError */
  readonly parse: (data: unknown) => ParsedJob;
  readonly facts: WorkerFacts;
  readonly running: Pick<RunningJobs, 'isClosed'>;
  readonly cancelFlags: Pick<CancelFlags, 'isUnset'>;
  readonly log: Logger;
}

/**
 * The short way of a job whose first attempt finds everything there without asking Redis or S3 anything: none of what the
 * long way needs (signal, timers, reporter) is made, because that would be more than all the rest (measured).
 * @returns `undefined` for every other job, also for a wrong one; nothing has been done then
 */
export function quietProcessor(options: QuietOptions): (job: Job) => Promise<UnpackResult | undefined> {
  const { unpacker, jobName, parse, facts, running, cancelFlags, log } = options;
  /** What is shared by all who find an image there is one result, too. */
  const results = new WeakMap<readonly UnpackedImage[], Pick<UnpackResult, 'images' | 'warnings'>>();

  return async (job) => {
    const { id = '', data } = job;
    if (job.name !== jobName || running.isClosed || !isFirstAttempt(job)) return undefined;
    const started = Date.now();
    const parsed = ifRight(parse, data);
    if (parsed === undefined) return undefined;
    const there = await unpacker.recall(parsed.source, parsed.request);
    if (there === undefined || !cancelFlags.isUnset(id)) return undefined;
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
    return result;
  };
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
