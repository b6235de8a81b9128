import { hostname } from 'node:os';

/**
 * Who holds a lock or a lease: a process with its worker and job. It is written into the file that the holder has locked,
 * so that other processes can name the holder. Used by leases and by the locks on chain IDs.
 */

/** The worker and the job that take a lock or a lease. */
export interface Owner {
  readonly worker?: string | undefined;
  readonly job?: string | undefined;
}

/** An owner and its process, as written in the file. */
export interface Holder extends Owner {
  /** The process ID in the PID namespace of the holder, for example in its container. */
  readonly pid: number;
  readonly host: string;
  /** The time when the lock or lease was taken, in ISO 8601. */
  readonly since: string;
}

/** This process, on behalf of `owner`. */
export function holderOf(owner: Owner, now = new Date()): Holder {
  return { pid: process.pid, host: hostname(), ...owner, since: now.toISOString() };
}

/** The holder in a parsed text; `undefined` for any other value. */
export function asHolder(value: unknown): Holder | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { pid, host, worker, job, since }: Partial<Record<keyof Holder, unknown>> = value;
  if (typeof pid !== 'number' || typeof host !== 'string' || typeof since !== 'string') return undefined;
  return {
    pid,
    host,
    since,
    ...(typeof worker === 'string' ? { worker } : {}),
    ...(typeof job === 'string' ? { job } : {}),
  };
}

/** `process 123 on host-1 (worker host-1:123, job 3f1c…)`. */
export function holderName(holder: Omit<Holder, 'since'> | undefined): string {
  if (holder === undefined) return 'another process';
  const { pid, host, worker, job } = holder;
  const more = [...(worker === undefined ? [] : [`worker ${worker}`]), ...(job === undefined ? [] : [`job ${job}`])];
  return `process ${pid} on ${host}${more.length === 0 ? '' : ` (${more.join(', ')})`}`;
}
