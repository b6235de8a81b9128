import { QueueEvents } from 'bullmq';
import type { Redis } from 'ioredis';
import { durationText } from '../units.ts';
import { patientConnection, type QueueSettings } from './connection.ts';
import { JobNotFoundError, QueueUnavailableError, UnreadableJobError, WaitTimeoutError } from './errors.ts';
import { errorFromReason } from './failure.ts';
import type { Progress, UnpackResult } from './formats.ts';
import { type JobStatus, jobError } from './job-status.ts';
import { readProgress } from './progress-schema.ts';
import { readResult } from './result-schema.ts';
import { after } from './time-limit.ts';

export interface WaitOptions {
  /** Time limit in milliseconds; default: no limit. */
  readonly timeout?: number;
  readonly signal?: AbortSignal | undefined;
  /** Called when the progress changes, at most four times a second. */
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Called with every read of the job: at first, and every two seconds while it waits or runs. */
  readonly onStatus?: ((status: JobStatus) => void) | undefined;
}

/** Milliseconds between two reads of a job, because events are lost if the connection breaks. */
const POLL = 2000;
/** Time limit in milliseconds for the last event of a job that has been removed (UNPACK_KEEP_COMPLETED=0). */
const LAST_EVENT = 1000;

/**
 * Waits for jobs, for `UnpackQueue.wait`. It listens to events, and also reads the job every two seconds, because events can be
 * lost. All calls share one subscription.
 */
export class JobWaiter {
  readonly #status: (jobId: string) => Promise<JobStatus>;
  readonly #connection: Redis;
  readonly #events: Promise<QueueEvents>;
  /** The resolved value of #events. */
  #open: QueueEvents | undefined;
  readonly #closing = new AbortController();

  constructor(settings: QueueSettings, status: (jobId: string) => Promise<JobStatus>) {
    this.#status = status;
    this.#connection = patientConnection(settings);
    // the next read of the job reports the outage
    this.#connection.on('error', () => {});
    this.#events = this.#listen(settings);
    this.#events.catch(() => {});
  }

  /** @throws as UnpackQueue.wait */
  async wait(jobId: string, { timeout, signal, onProgress, onStatus }: WaitOptions): Promise<UnpackResult> {
    signal?.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<UnpackResult>();
    const timers = new Set<NodeJS.Timeout>();
    let cancelTimeout = () => {};
    let existed = false;
    let ended = false;

    const onCompleted = async ({ returnvalue }: { returnvalue: unknown }) => {
      // the progress of a job on the fast path is derived from its result; a job that is already removed has no progress
      if (onProgress !== undefined) await this.#status(jobId).then(show, () => {});
      const result = readResult(jobId, returnvalue);
      if (typeof result === 'string') reject(new UnreadableJobError(result));
      else resolve(result);
    };
    const show = ({ progress }: Pick<JobStatus, 'progress'>) => {
      try {
        if (progress !== undefined && !ended) onProgress?.(progress);
      } catch (error) {
        reject(error);
      }
    };
    const read = async (reason?: string) => {
      try {
        const status = await this.#status(jobId);
        existed = true;
        if (reason === undefined) show(status);
        if (!ended) onStatus?.(status);
        if (status.result !== undefined) resolve(status.result);
        else if (status.resultProblem !== undefined) reject(new UnreadableJobError(status.resultProblem));
        else if (status.state === 'failed') reject(jobError(status));
      } catch (error) {
        const removed = error instanceof JobNotFoundError && existed;
        if (removed && reason !== undefined) reject(errorFromReason(reason));
        else if (removed) timers.add(setTimeout(() => reject(error), LAST_EVENT));
        else reject(error);
      }
    };
    const onFailed = ({ failedReason }: { failedReason: string }) => void read(failedReason);
    const onEvent = ({ data }: { data: unknown }) => show({ progress: readProgress(data) });
    const onAbort = () => reject(signal?.reason);
    const onClose = () => reject(new QueueUnavailableError('the queue has been closed'));

    const names = { completed: `completed:${jobId}`, failed: `failed:${jobId}`, progress: `progress:${jobId}` };
    let detach = () => {};
    const attach = (events: NodeJS.EventEmitter) => {
      events.on(names.completed, onCompleted).on(names.failed, onFailed).on(names.progress, onEvent);
      detach = () => {
        events.off(names.completed, onCompleted).off(names.failed, onFailed).off(names.progress, onEvent);
      };
      // the job can complete or fail before the subscription starts
      void read();
    };
    signal?.addEventListener('abort', onAbort);
    this.#closing.signal.addEventListener('abort', onClose);
    if (timeout !== undefined) {
      const late = `job ${jobId} did not finish within ${durationText(timeout)}; the job continues`;
      cancelTimeout = after(timeout, () => reject(new WaitTimeoutError(late)));
    }
    timers.add(setInterval(() => void read(), POLL));
    void read();
    this.#events.then((events) => (ended ? undefined : attach(events)), reject);
    try {
      return await promise;
    } finally {
      for (const timer of timers) clearTimeout(timer);
      cancelTimeout();
      ended = true;
      detach();
      signal?.removeEventListener('abort', onAbort);
      this.#closing.signal.removeEventListener('abort', onClose);
    }
  }

  /** Subscribes. After this call resolves, no event is missed, because the subscription starts at the newest event. */
  async #listen(settings: QueueSettings): Promise<QueueEvents> {
    const { UNPACK_QUEUE: name, UNPACK_REDIS_PREFIX: prefix } = settings;
    const [newest] = await this.#connection.xrevrange(`${prefix}:${name}:events`, '+', '-', 'COUNT', 1);
    const events = new QueueEvents(name, {
      connection: this.#connection,
      prefix,
      lastEventId: newest?.[0] ?? '0-0',
      // the check prints its warnings to the console
      skipVersionCheck: true,
    });
    events.on('error', () => {});
    this.#open = events;
    return events;
  }

  async close(): Promise<void> {
    this.#closing.abort();
    const open = this.#open;
    if (this.#connection.status === 'ready') await open?.close().catch(() => {});
    // closing would wait for an event that never comes without a connection
    else void open?.disconnect().catch(() => {});
    this.#connection.disconnect();
  }
}
