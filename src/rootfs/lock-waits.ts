import { hostname } from 'node:os';
import { type ChainId, shortDigest } from '../oci/digest.ts';

/** Who has the lock on a chain ID, as the lock's file tells it. */
export interface LockHolder {
  /** In the holder's own PID namespace: on `host`, if that is a container. */
  readonly pid: number;
  readonly host: string;
  readonly worker?: string | undefined;
  readonly job?: string | undefined;
  /** When it was taken. */
  readonly since: string;
}

/** A layer that another process has locked, and that somebody waits for. */
export interface LockWait {
  readonly chainId: ChainId;
  /** `undefined`: the file does not tell. */
  readonly holder: LockHolder | undefined;
}

/** For whom locks are taken; goes into their files. */
export interface LockOwner {
  readonly worker?: string | undefined;
  readonly job?: string | undefined;
}

export interface LockWaitsOptions {
  readonly owner?: LockOwner | undefined;
  /** Milliseconds on other processes' locks, and with nothing else to do, after which `onBlocked` is called. */
  readonly patience?: number | undefined;
  readonly onBlocked?: ((wait: LockWait) => void) | undefined;
}

/** Long enough for a small layer, and short beside what a slot is worth. */
export const PATIENCE = 3000;

/**
 * What one call waits for. It is *blocked* while it waits for a layer that another process has locked and writes none of
 * its own layers; once it has been so for `patience` without a break, `onBlocked` is called, once. A layer that another
 * call of this process has locked counts only while that call is blocked itself.
 */
export class LockWaits implements Disposable {
  readonly owner: LockOwner;
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

  /** What it is blocked by. */
  get blockedBy(): LockWait | undefined {
    if (this.#writing > 0) return undefined;
    const [first] = this.#waits.values();
    return first;
  }

  /** Work on a layer of its own: what is waited for meanwhile costs no time. */
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

  /** `wait`: which lock of another process keeps it from `chainId`; `undefined`: none does. */
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

/** What a lock's file holds. */
export function holderText(owner: LockOwner, now = new Date()): string {
  const holder: LockHolder = { pid: process.pid, host: hostname(), ...owner, since: now.toISOString() };
  return `${JSON.stringify(holder)}\n`;
}

/** Who has written that; `undefined` for what is none, as where the disk was full. */
export function parseHolder(text: string): LockHolder | undefined {
  try {
    const { pid, host, worker, job, since }: Partial<Record<keyof LockHolder, unknown>> = JSON.parse(text);
    if (typeof pid !== 'number' || typeof host !== 'string' || typeof since !== 'string') return undefined;
    return {
      pid,
      host,
      since,
      ...(typeof worker === 'string' ? { worker } : {}),
      ...(typeof job === 'string' ? { job } : {}),
    };
  } catch {
    return undefined;
  }
}

/** `process 123 on host-1 (worker host-1:123, job 3f1c…)`. */
export function holderName(holder: Omit<LockHolder, 'since'> | undefined): string {
  if (holder === undefined) return 'another process';
  const { pid, host, worker, job } = holder;
  const more = [...(worker === undefined ? [] : [`worker ${worker}`]), ...(job === undefined ? [] : [`job ${job}`])];
  return `process ${pid} on ${host}${more.length === 0 ? '' : ` (${more.join(', ')})`}`;
}

/** `layer sha256:abc…, which process 123 on … has locked since …`. */
export function lockWaitText({ chainId, holder }: LockWait): string {
  const since = holder === undefined ? '' : ` since ${holder.since}`;
  return `the layer of chain ID ${shortDigest(chainId)}, which ${holderName(holder)} has locked${since}`;
}
