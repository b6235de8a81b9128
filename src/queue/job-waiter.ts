import { QueueEvents } from 'bullmq';
import type { Redis } from 'ioredis';
import { durationText } from '../units.ts';
import { patientConnection, type QueueSettings } from './connection.ts';
import { JobNotFoundError, QueueUnavailableError, UnreadableJobError, WaitTimeoutError } from './errors.ts';
import { errorFromReason } from './failure.ts';
import { type JobStatus, jobError } from './job-status.ts';
import { type Progress, readProgress } from './progress-schema.ts';
import type { UnpackResult } from './result.ts';
import { readResult } from './result-schema.ts';
import { after } from './time-limit.ts';

export interface WaitOptions {
  /** Milliseconds; default: as long as it takes. */
  readonly timeout?: number;
  readonly signal?: AbortSignal | undefined;
  /** Called when the progress has changed, at most four times a second. */
  readonly onProgress?: ((progress: Progress) => void) | undefined;
}

/** Milliseconds between two looks at a job, for events that got lost with a connection. */
const POLL = 2000;
/** Milliseconds that the event of a job's end may come after the job has been removed (UNPACK_KEEP_COMPLETED=0). */
const LAST_EVENT = 1000;

/**
 * Waits for jobs: events make it prompt, and looking again from time to time makes it sure. One subscription serves any
 * number of waiting callers.
 */
export class JobWaiter {
  readonly #status: (jobId: string) => Promise<JobStatus>;
  readonly #connection: Redis;
  readonly #events: Promise<QueueEvents>;
  /** What #events has come to, once it has. */
  #open: QueueEvents | undefined;
  readonly #closing = new AbortController();

  constructor(settings: QueueSettings, status: (jobId: string) => Promise<JobStatus>) {
    this.#status = status;
    this.#connection = patientConnection(settings);
    // looking at the job finds out about an outage, and tells the caller
    this.#connection.on('error', () => {});
    this.#events = this.#listen(settings);
    this.#events.catch(() => {});
  }

  /** @throws as UnpackQueue.wait */
  async wait(jobId: string, { timeout, signal, onProgress }: WaitOptions): Promise<UnpackResult> {
    signal?.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<UnpackResult>();
    const timers = new Set<NodeJS.Timeout>();
    let cancelTimeout = () => {};
    let seen = false;
    let over = false;

    const onCompleted = async ({ returnvalue }: { returnvalue: unknown }) => {
      // a job that found everything there tells its progress with its end; one that is removed by then keeps it
      if (onProgress !== undefined) await this.#status(jobId).then(show, () => {});
      const read = readResult(jobId, returnvalue);
      if (typeof read === 'string') reject(new UnreadableJobError(read));
      else resolve(read);
    };
    const show = ({ progress }: Pick<JobStatus, 'progress'>) => {
      try {
        if (progress !== undefined && !over) onProgress?.(progress);
      } catch (error) {
        reject(error);
      }
    };
    const look = async (reason?: string) => {
      try {
        const status = await this.#status(jobId);
        seen = true;
        if (reason === undefined) show(status);
        if (status.result !== undefined) resolve(status.result);
        else if (status.resultProblem !== undefined) reject(new UnreadableJobError(status.resultProblem));
        else if (status.state === 'failed') reject(jobError(status));
      } catch (error) {
        const removed = error instanceof JobNotFoundError && seen;
        if (removed && reason !== undefined) reject(errorFromReason(reason));
        else if (removed) timers.add(setTimeout(() => reject(error), LAST_EVENT));
        else reject(error);
      }
    };
    const onFailed = ({ failedReason }: { failedReason: string }) => void look(failedReason);
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
      // what ended before the events were heard is seen by looking once more
      void look();
    };
    signal?.addEventListener('abort', onAbort);
    this.#closing.signal.addEventListener('abort', onClose);
    if (timeout !== undefined) {
      const late = `job ${jobId} did not end within ${durationText(timeout)}; it goes on`;
      cancelTimeout = after(timeout, () => reject(new WaitTimeoutError(late)));
    }
    timers.add(setInterval(() => void look(), POLL));
    void look();
    this.#events.then((events) => (over ? undefined : attach(events)), reject);
    try {
      return await promise;
    } finally {
      for (const timer of timers) clearTimeout(timer);
      cancelTimeout();
      over = true;
      detach();
      signal?.removeEventListener('abort', onAbort);
      this.#closing.signal.removeEventListener('abort', onClose);
    }
  }

  /** Every event that comes after this has resolved is heard, also those before the first read of them. */
  async #listen(settings: QueueSettings): Promise<QueueEvents> {
    const { UNPACK_QUEUE: name, UNPACK_REDIS_PREFIX: prefix } = settings;
    const [newest] = await this.#connection.xrevrange(`${prefix}:${name}:events`, '+', '-', 'COUNT', 1);
    const events = new QueueEvents(name, {
      connection: this.#connection,
      prefix,
      lastEventId: newest?.[0] ?? '0-0',
      // what it finds it prints to the console
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
    // ending a connection that is not there waits for an event that never comes
    else void open?.disconnect().catch(() => {});
    this.#connection.disconnect();
  }
}
