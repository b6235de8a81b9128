import { toUnpackError } from '../errors.ts';

/**
 * The layers below a layer, which are made while that layer is written. Only a store that can rebase allows it. `apply-layers`
 * starts them. Disposal waits for them, because they use the locks and the lease of the call.
 */
export class LayersBelow implements AsyncDisposable {
  /** The first failure of either side is the cause, the second its consequence. */
  readonly #failures: unknown[] = [];
  /** Stops the layer above when the layers below have failed. */
  readonly #failed = new AbortController();
  readonly #stopped = new AbortController();
  readonly #made: Promise<void>;

  /** @param make makes the layers, until its signal is aborted */
  constructor(make: (signal: AbortSignal) => Promise<unknown>, signal: AbortSignal | undefined) {
    this.#made = make(either(signal, this.#stopped)).then(
      () => {},
      (error: unknown) => {
        this.#failures.push(error);
        this.#failed.abort(error);
      },
    );
  }

  /**
   * Writes the layer above, and waits until those below are made.
   * @throws the first failure of either side, which stops the other one
   */
  async beside<T>(write: (signal: AbortSignal) => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    const writing = write(either(signal, this.#failed)).then(
      (value) => ({ value }),
      (error: unknown) => {
        this.#failures.push(error);
        // if the layer will be retried, let the layers below finish
        if (toUnpackError(error).retry === 'never') this.#stopped.abort(error);
        return undefined;
      },
    );
    const [written] = await Promise.all([writing, this.#made]);
    if (written === undefined || this.#failures.length > 0) throw this.#failures[0];
    return written.value;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#made;
  }
}

function either(signal: AbortSignal | undefined, stop: AbortController): AbortSignal {
  return signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]);
}
