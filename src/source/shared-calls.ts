import { abortError, throwIfAborted, UnpackError } from '../errors.ts';

/**
 * Lets calls for the same thing share their work where each must be answered by work that began after the call was
 * made: while one piece of work runs, all who come wait for the next, and have that together.
 *
 *     call a ─▶ work 1 ─────▶ a
 *       call b, call c ─────▶ work 2 ─────▶ b, c
 */
export class SharedCalls<T> {
  /** For each key with work in progress: what comes after it. */
  readonly #lines = new Map<string, { next: Turn<T> | undefined }>();

  /**
   * What `work` comes to. Its signal is aborted when nobody waits for it any more; who calls then gets work of its own,
   * and does not wait for the end of the work that was given up.
   * @throws what the work throws; what the caller's own signal says, and then the others wait on
   */
  call(key: string, work: (signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const line = this.#lines.get(key);
    if (line !== undefined) {
      if (line.next === undefined || line.next.abandoned) line.next = new Turn(work);
      return line.next.join(signal);
    }
    const first = new Turn(work);
    const joined = first.join(signal);
    void this.#serve(key, first);
    return joined;
  }

  async #serve(key: string, first: Turn<T>): Promise<void> {
    const line: { next: Turn<T> | undefined } = { next: undefined };
    this.#lines.set(key, line);
    for (let turn: Turn<T> | undefined = first; turn !== undefined; turn = line.next) {
      line.next = undefined;
      await turn.run();
    }
    this.#lines.delete(key);
  }
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
