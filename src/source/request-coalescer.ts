import { abortError, UnpackError } from '../errors.ts';

/** Maximum number of requests for one key that run at the same time. */
const PARALLEL = 2;
/** After this number of requests the peak of the callers is measured again. */
const PEAK_INTERVAL = 100;
/** Number of keys whose peak is kept while nobody calls. */
const KEYS_KEPT = 1000;

/** The callers of one key. */
interface Queue<T> {
  /** The waiting callers, in the order of their calls. */
  readonly waiting: Caller<T>[];
  /** Whether a request will start at the end of this turn of the event loop. */
  isPlanned: boolean;
  running: number;
  /** Number of callers without an answer, and its recent maximum. */
  callers: number;
  peak: number;
  requests: number;
}

interface Caller<T> {
  readonly request: (signal: AbortSignal) => Promise<T>;
  readonly resolve: (result: T) => void;
  readonly reject: (error: unknown) => void;
  /** The request that answers this caller. `undefined` while the caller waits for one to start. */
  running: RunningRequest<T> | undefined;
}

/**
 * Coalesces requests for the same key. Unlike with "single flight", a caller never joins a request that runs already: it is
 * answered by a request that starts after the call, so a caller that has just changed an object reads the change.
 *
 *     call a, call b ─▶ request 1 ───────────▶ a, b
 *          call c, call d ─▶ request 2 ───────────▶ c, d
 *                  call e, call f ────────▶ request 3 …
 *
 * Up to PARALLEL requests run at the same time, and each answers at most one part in PARALLEL of all callers. Callers that
 * call again and again, such as the slots of a worker, form two groups: one works while the other waits for its answer. One
 * group would need fewer requests, but then all callers wait at the same time (measured: a fifth fewer jobs).
 */
export class RequestCoalescer<T> {
  readonly #queues = new Map<string, Queue<T>>();

  /**
   * The result of a request that starts after this call.
   * @param request the same for all callers of a key. Its signal is aborted when the last of its callers has left.
   * @throws what the request throws; the reason of the caller's own signal, which does not affect other callers
   */
  call(key: string, request: (signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> {
    if (signal?.aborted) return Promise.reject(abortError(signal));
    const queue = this.#queues.get(key) ?? this.#open(key);
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const caller: Caller<T> = { request, resolve, reject, running: undefined };
    const onAbort = (): void => {
      if (caller.running === undefined) queue.waiting.splice(queue.waiting.indexOf(caller), 1);
      else caller.running.leave(caller);
      if (signal !== undefined) reject(abortError(signal));
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    queue.waiting.push(caller);
    queue.callers += 1;
    queue.peak = Math.max(queue.peak, queue.callers);
    this.#plan(queue);
    return promise.finally(() => {
      queue.callers -= 1;
      signal?.removeEventListener('abort', onAbort);
    });
  }

  #open(key: string): Queue<T> {
    if (this.#queues.size >= KEYS_KEPT) {
      for (const [other, { callers, running }] of this.#queues) if (callers + running === 0) this.#queues.delete(other);
    }
    const queue: Queue<T> = { waiting: [], isPlanned: false, running: 0, callers: 0, peak: 0, requests: 0 };
    this.#queues.set(key, queue);
    return queue;
  }

  #plan(queue: Queue<T>): void {
    if (queue.isPlanned || queue.waiting.length === 0 || queue.running >= PARALLEL) return;
    queue.isPlanned = true;
    // callers that became ready at the same time call one after another in this turn
    setImmediate(() => {
      queue.isPlanned = false;
      void this.#start(queue);
    });
  }

  async #start(queue: Queue<T>): Promise<void> {
    const callers = queue.waiting.splice(0, Math.ceil(queue.peak / PARALLEL));
    if (callers.length === 0) return;
    queue.requests += 1;
    if (queue.requests % PEAK_INTERVAL === 0) queue.peak = queue.callers;
    queue.running += 1;
    this.#plan(queue);
    await new RunningRequest(callers).run();
    queue.running -= 1;
    this.#plan(queue);
  }
}

/**
 * One request and the callers that wait for it. State: running → answered; or running → abandoned, when the last caller
 * leaves.
 */
class RunningRequest<T> {
  readonly #callers: Set<Caller<T>>;
  readonly #abandoned = new AbortController();
  readonly #ended = Promise.withResolvers<void>();

  constructor(callers: readonly Caller<T>[]) {
    this.#callers = new Set(callers);
    for (const caller of callers) caller.running = this;
  }

  /** Runs until the callers are answered or have left. An abandoned request possibly settles later. Never rejects. */
  async run(): Promise<void> {
    const [first] = this.#callers;
    first?.request(this.#abandoned.signal).then(
      (result) => this.#answer((caller) => caller.resolve(result)),
      (error: unknown) => this.#answer((caller) => caller.reject(error)),
    );
    await this.#ended.promise;
  }

  leave(caller: Caller<T>): void {
    this.#callers.delete(caller);
    if (this.#callers.size > 0) return;
    this.#abandoned.abort(new UnpackError('INTERNAL', 'all callers of this request have left'));
    this.#ended.resolve();
  }

  #answer(answer: (caller: Caller<T>) => void): void {
    for (const caller of this.#callers) answer(caller);
    this.#ended.resolve();
  }
}
