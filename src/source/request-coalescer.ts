import { abortError, UnpackError } from '../errors.ts';

/** Pieces of work for one key that run at once. */
const MOST_AT_ONCE = 2;
/** Pieces of work after which it is looked anew how many call at the same time. */
const COUNTED_FOR = 100;
/** Keys that are remembered though nobody waits. */
const MOST_LINES = 1000;

/** What runs for one key, and what comes next. */
interface Line<T> {
  readonly next: Turn<T>[];
  /** The first of `next` begins at the end of this turn of the event loop. */
  isPlanned: boolean;
  running: number;
  /** Calls that wait for an answer, and the most that did at the same time of late. */
  calls: number;
  most: number;
  /** Pieces of work since that was looked at. */
  counted: number;
}

/**
 * Lets calls for the same thing share their work where each must be answered by work that began after the call was made.
 *
 *     call a, call b ─▶ work 1 ─────────────▶ a, b
 *          call c, call d ─▶ work 2 ─────────────▶ c, d
 *                  call e, call f ──────────▶ work 3 …
 *
 * Calls of one turn of the event loop share it, and those that come while MOST_AT_ONCE pieces of work run, but no more than
 * one part in MOST_AT_ONCE of all who call at the same time. Callers that come again and again, as the slots of a worker do,
 * thus go in groups of which one can work while the other waits. All in one group would save work, but then everybody
 * would wait at the same time (measured: a fifth fewer jobs).
 */
export class RequestCoalescer<T> {
  readonly #lines = new Map<string, Line<T>>();

  /**
   * What `work` comes to. Its signal is aborted when nobody waits for it any more; who calls then gets work of its own,
   * and does not wait for the end of the work that was given up.
   * @throws what the work throws; what the caller's own signal says, and then the others wait on
   */
  call(key: string, work: (signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> {
    if (signal?.aborted) return Promise.reject(abortError(signal));
    const line = this.#lines.get(key) ?? this.#begin(key);
    line.calls += 1;
    line.most = Math.max(line.most, line.calls);
    let last = line.next.at(-1);
    if (last === undefined || last.abandoned || last.party >= line.most / MOST_AT_ONCE) {
      last = new Turn(work, () => {
        line.calls -= 1;
      });
      line.next.push(last);
    }
    const joined = last.join(signal);
    this.#plan(line);
    return joined;
  }

  #begin(key: string): Line<T> {
    if (this.#lines.size >= MOST_LINES) {
      for (const [other, { calls, running }] of this.#lines) if (calls + running === 0) this.#lines.delete(other);
    }
    const line: Line<T> = { next: [], isPlanned: false, running: 0, calls: 0, most: 0, counted: 0 };
    this.#lines.set(key, line);
    return line;
  }

  #plan(line: Line<T>): void {
    if (line.isPlanned || line.next.length === 0 || line.running >= MOST_AT_ONCE) return;
    line.isPlanned = true;
    // what came in at the same time is handed out one by one within a turn of the event loop
    setImmediate(() => {
      line.isPlanned = false;
      void this.#serve(line);
    });
  }

  async #serve(line: Line<T>): Promise<void> {
    const turn = line.next.shift();
    if (turn === undefined) return;
    line.counted += 1;
    if (line.counted >= COUNTED_FOR) {
      line.counted = 0;
      line.most = line.calls;
    }
    line.running += 1;
    this.#plan(line);
    await turn.run();
    line.running -= 1;
    this.#plan(line);
  }
}

/** Who waits for a piece of work. */
interface Waiter<T> {
  readonly resolve: (result: T) => void;
  readonly reject: (error: unknown) => void;
  /** Its own signal is listened to no more. */
  readonly forget: () => void;
}

/** One piece of work and those who wait for it. Wanted → over, or wanted → abandoned: then nobody can join any more. */
class Turn<T> {
  readonly #work: (signal: AbortSignal) => Promise<T>;
  readonly #unwanted = new AbortController();
  readonly #waiting = new Set<Waiter<T>>();
  /** Resolves when the work is over, or the last who waited has left. */
  readonly #ended = Promise.withResolvers<void>();
  readonly #onAnswer: () => void;

  /** @param onAnswer called for each who joins, once it waits no more */
  constructor(work: (signal: AbortSignal) => Promise<T>, onAnswer: () => void) {
    this.#work = work;
    this.#onAnswer = onAnswer;
  }

  /** All who waited for it have left. */
  get abandoned(): boolean {
    return this.#unwanted.signal.aborted;
  }

  /** How many wait for it. */
  get party(): number {
    return this.#waiting.size;
  }

  join(signal: AbortSignal | undefined): Promise<T> {
    if (this.abandoned) return Promise.reject(new Error('nobody can join work that was given up'));
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const onAbort = (): void => {
      this.#waiting.delete(waiter);
      this.#onAnswer();
      // at once: who calls in the same tick must not join what is given up
      if (this.#waiting.size === 0) this.#giveUp();
      if (signal !== undefined) reject(abortError(signal));
    };
    const waiter: Waiter<T> = { resolve, reject, forget: () => signal?.removeEventListener('abort', onAbort) };
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#waiting.add(waiter);
    return promise;
  }

  #giveUp(): void {
    this.#unwanted.abort(new UnpackError('INTERNAL', 'nobody waits for this read any more'));
    this.#ended.resolve();
  }

  /** Never rejects: those who wait are told. Ends with the work, or when nobody waits for that any more. */
  async run(): Promise<void> {
    if (this.#waiting.size === 0) return;
    this.#work(this.#unwanted.signal).then(
      (result) => this.#tell((waiter) => waiter.resolve(result)),
      (error: unknown) => this.#tell((waiter) => waiter.reject(error)),
    );
    await this.#ended.promise;
  }

  #tell(tell: (waiter: Waiter<T>) => void): void {
    this.#ended.resolve();
    for (const waiter of this.#waiting) {
      waiter.forget();
      this.#onAnswer();
      tell(waiter);
    }
    this.#waiting.clear();
  }
}
