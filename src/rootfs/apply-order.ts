import { EventEmitter, once } from 'node:events';
import { throwIfAborted } from '../errors.ts';

/** Layers whose blobs differ by fewer bytes ask in any order, because it takes longer to wait than such a layer to write. */
const NOTICEABLE = 1 << 20;

/**
 * The order in which the layers of one image ask for an apply thread: a larger blob before a smaller one. The layers are
 * prepared from the top down. Without this order, the top layers have the threads when the layer that takes longest asks, and
 * the layers that must be committed first are written last. `apply-layers` uses it.
 *
 *     pending → asked   by `turn`, when no pending layer is larger
 *     pending → asked   by `leave`: it exists, has failed, or waits for another process
 */
export class ApplyOrder {
  /** The layers that have not asked yet, with the sizes of their blobs in bytes. */
  readonly #pending: Map<number, number>;
  readonly #changes = new EventEmitter().setMaxListeners(0);

  /** @param sizes of the blobs of all layers that are missing, by the positions of the layers */
  constructor(sizes: Iterable<readonly [index: number, size: number]>) {
    this.#pending = new Map(sizes);
  }

  /**
   * Waits until the layer may ask. A layer that has asked before does not wait.
   * @throws UnpackError the signal's reason, if it is aborted meanwhile
   */
  async turn(index: number, signal: AbortSignal | undefined): Promise<void> {
    while (this.#isLargerPending(index)) {
      await once(this.#changes, 'asked', { signal }).catch(() => {});
      throwIfAborted(signal);
    }
    this.#remove([index]);
  }

  /** The layer and those below it will not ask soon, so no other layer waits for them. */
  leave(index: number): void {
    this.#remove([...this.#pending.keys()].filter((each) => each <= index));
  }

  #isLargerPending(index: number): boolean {
    const size = this.#pending.get(index);
    return size !== undefined && [...this.#pending.values()].some((other) => other > size + NOTICEABLE);
  }

  #remove(indexes: readonly number[]): void {
    for (const index of indexes) this.#pending.delete(index);
    if (indexes.length > 0) this.#changes.emit('asked');
  }
}
