import { abortError, throwIfAborted, UnpackError } from '../errors.ts';

/** Milliseconds that work waits for those who took part in the last, so that they are not left to the next. */
const GATHERING = 1;
/** Keys of which it is remembered how many call at the same time. */
const MOST_LINES = 1000;

/** What comes next for one key, and who is expected to take part in it. */
interface Line<T> {
  next: Turn<T> | undefined;
  /** How many had the last work, or waited for the next when it ended. */
  party: number;
  /** Work is running or about to. */
  busy: boolean;
  /** Told of each who joins while others are waited for. */
  onJoin: (() => void) | undefined;
}

/**
 * Lets calls for the same thing share their work where each must be answered by work that began after the call was
 * made: while one piece of work runs, all who come wait for the next, and have that together.
 *
 *     call a ─▶ work 1 ─────▶ a
 *       call b, call c ─────▶ work 2 ─────▶ b, c
 *
 * Callers that come again and again, as the slots of a worker do, would be split in two halves for ever, each waiting for the
 * work of the other. So the next work waits for as many as there were before, for a millisecond at most.
 */
export class SharedCalls<T> {
  readonly #lines = new Map<string, Line<T>>();

  /**
   * What `work` comes to. Its signal is aborted when nobody waits for it any more; who calls then gets work of its own,
   * and does not wait for the end of the work that was given up.
   * @throws what the work throws; what the caller's own signal says, and then the others wait on
   */
  call(key: string, work: (signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const line = this.#lines.get(key) ?? this.#begin(key);
    if (line.next === undefined || line.next.abandoned) line.next = new Turn(work);
    const joined = line.next.join(signal);
    if (line.busy) line.onJoin?.();
    else void this.#serve(line);
    return joined;
  }

  #begin(key: string): Line<T> {
    if (this.#lines.size >= MOST_LINES) {
      for (const [other, { busy }] of this.#lines) if (!busy) this.#lines.delete(other);
    }
    const line: Line<T> = { next: undefined, party: 1, busy: false, onJoin: undefined };
    this.#lines.set(key, line);
    return line;
  }

  async #serve(line: Line<T>): Promise<void> {
    line.busy = true;
    while (line.next !== undefined) {
      if (line.next.party < line.party) await gathered(line);
      const turn = line.next;
      line.next = undefined;
      await turn.run();
      // changed meanwhile, which the compiler does not see
      const waiting: Turn<T> | undefined = (line as Line<T>).next;
      line.party = turn.party + (waiting?.party ?? 0);
    }
    line.busy = false;
  }
}

function gathered<T>(line: Line<T>): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(limit);
      line.onJoin = undefined;
      resolve();
    };
    const limit = setTimeout(end, GATHERING);
    line.onJoin = () => {
      if ((line.next?.party ?? 0) >= line.party) end();
    };
  });
}

/** One piece of work and those who wait for it. Wanted → over, or wanted → abandoned: then nobody can join any more. */
class Turn<T> {
  readonly #work: (signal: AbortSignal) => Promise<T>;
  readonly #unwanted = new AbortController();
  readonly #outcome = Promise.withResolvers<T>();
  /** Resolves when the work is over, or the last who waited has left. */
  readonly #ended = Promise.withResolvers<void>();
  #waiting = 0;
  #over = false;

  constructor(work: (signal: AbortSignal) => Promise<T>) {
    this.#work = work;
  }

  /** All who waited for it have left. */
  get abandoned(): boolean {
    return this.#unwanted.signal.aborted;
  }

  /** How many wait for it or have had it. */
  get party(): number {
    return this.#waiting;
  }

  async join(signal: AbortSignal | undefined): Promise<T> {
    throwIfAborted(signal);
    if (this.abandoned) throw new Error('nobody can join work that was given up');
    this.#waiting += 1;
    const given = Promise.withResolvers<never>();
    const onAbort = (): void => {
      if (signal === undefined) return;
      this.#leave();
      given.reject(abortError(signal));
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      return await Promise.race([this.#outcome.promise, given.promise]);
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** At once when a signal is aborted: who calls in the same tick must not join what is given up. */
  #leave(): void {
    this.#waiting -= 1;
    if (this.#waiting > 0 || this.#over) return;
    this.#unwanted.abort(new UnpackError('INTERNAL', 'nobody waits for this read any more'));
    this.#ended.resolve();
  }

  /** Never rejects: those who wait are told. Ends with the work, or when nobody waits for that any more. */
  async run(): Promise<void> {
    if (this.#waiting === 0) return;
    const settle = (tell: () => void): void => {
      this.#over = true;
      this.#ended.resolve();
      tell();
    };
    this.#work(this.#unwanted.signal).then(
      (result) => settle(() => this.#outcome.resolve(result)),
      (error: unknown) => settle(() => this.#outcome.reject(error)),
    );
    await this.#ended.promise;
  }
}
