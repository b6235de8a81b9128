import { type ChainId, shortDigest } from '../oci/digest.ts';
import { asHolder, type Holder, holderName, holderOf, type Owner } from '../snapshots/holder.ts';

/**
 * What a call of the unpacker waits for, and the texts about locks. `chain-locks` records waits here and writes holders into
 * lock files; the queue reads them, to park a job that waits for another process.
 */

/** A wait for a layer that another process has locked. */
export interface LockWait {
  readonly chainId: ChainId;
  /** `undefined` if the lock file does not contain the holder. */
  readonly holder: Holder | undefined;
}

export interface LockWaitsOptions {
  readonly owner?: Owner | undefined;
  /** `onBlocked` is called after the call has been blocked for this number of milliseconds without a break. */
  readonly patience?: number | undefined;
  readonly onBlocked?: ((wait: LockWait) => void) | undefined;
}

/**
 * Default wait for a lock in milliseconds before the job gives its slot back. Most small layers are applied in less
 * time. A longer wait would keep the slot without work.
 */
export const PATIENCE = 3000;

/**
 * The waits of one call of the unpacker. The call is *blocked* while two conditions hold: it waits for a lock of
 * another process, and it writes no layer. After `patience` milliseconds without a break, `onBlocked` is called once. A
 * wait for a lock of another call in this process counts only while that other call is blocked.
 */
export class LockWaits implements Disposable {
  readonly owner: Owner;
  readonly #patience: number;
  readonly #onBlocked: LockWaitsOptions['onBlocked'];
  readonly #waits = new Map<ChainId, LockWait>();
  #writing = 0;
  #timer: NodeJS.Timeout | undefined;
  #told = false;

  constructor({ owner = {}, patience = PATIENCE, onBlocked }: LockWaitsOptions = {}) {
    this.owner = owner;
    this.#patience = patience;
    this.#onBlocked = onBlocked;
  }

  /** The wait that blocks the call; `undefined` while the call is not blocked. */
  get blockedBy(): LockWait | undefined {
    if (this.#writing > 0) return undefined;
    const [first] = this.#waits.values();
    return first;
  }

  /** Runs work on a layer of the call. The call is not blocked during this work. */
  async writing<T>(work: () => Promise<T>): Promise<T> {
    this.#writing++;
    this.#changed();
    try {
      return await work();
    } finally {
      this.#writing--;
      this.#changed();
    }
  }

  /** Records the wait for `chainId`. `undefined`: the wait is over, or no other process is involved. */
  waits(chainId: ChainId, wait: LockWait | undefined): void {
    if (wait === undefined) this.#waits.delete(chainId);
    else this.#waits.set(chainId, wait);
    this.#changed();
  }

  [Symbol.dispose](): void {
    this.#told = true;
    clearTimeout(this.#timer);
  }

  #changed(): void {
    const blocked = this.blockedBy !== undefined;
    if (!blocked) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
    } else if (this.#timer === undefined && !this.#told) {
      this.#timer = setTimeout(() => this.#tell(), this.#patience);
    }
  }

  #tell(): void {
    const wait = this.blockedBy;
    if (wait === undefined || this.#told) return;
    this.#told = true;
    this.#onBlocked?.(wait);
  }
}

/** The text of a lock file. */
export function holderText(owner: Owner): string {
  return `${JSON.stringify(holderOf(owner))}\n`;
}

/**
 * The holder in the text of a lock file; `undefined` for any other text, for example an empty file after the disk was
 * full.
 */
export function parseHolder(text: string): Holder | undefined {
  try {
    return asHolder(JSON.parse(text));
  } catch {
    return undefined;
  }
}

/** `layer sha256:abc…, which process 123 on … has locked since …`. */
export function lockWaitText({ chainId, holder }: LockWait): string {
  const since = holder === undefined ? '' : ` since ${holder.since}`;
  return `the layer of chain ID ${shortDigest(chainId)}, which ${holderName(holder)} has locked${since}`;
}
