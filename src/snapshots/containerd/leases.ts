import { randomBytes } from 'node:crypto';
import type { ContainerdClient } from '../../grpc/client.ts';
import { isGrpcError } from '../../grpc/errors.ts';
import type { Labels } from '../../grpc/services.ts';
import type { Owner } from '../holder.ts';
import type { LeaseFile, Leases } from '../leases.ts';
import type { Lease, Mount, Usage } from '../snapshotter.ts';
import type { State } from './state.ts';

/**
 * Leases in containerd, each with a lease file of ours. containerd's collection keeps what its lease names. The file's lock
 * tells whether the process that took the lease lives: containerd cannot know that, and its leases stay until they expire.
 *
 *     take      write and lock the file → create containerd's lease
 *     dispose   delete containerd's lease → delete the file
 *
 * So a lease of containerd whose file nobody has locked belongs to a dead process.
 */

/** Milliseconds until containerd ends a lease that nobody deletes: longer than the longest UNPACK_JOB_TIMEOUT. */
const EXPIRY = 8 * 24 * 3_600_000;
/** Milliseconds for the deletion of a lease, so that the end of a failed job does not hang with containerd. */
const END_LIMIT = 20_000;

/** An active snapshot that this process has prepared. */
export interface ActiveSnapshot {
  readonly parent: string;
  readonly mounts: readonly Mount[];
  /** As `Durability.begin` has returned it; `undefined` if another process has prepared the snapshot. */
  readonly number?: number;
}

/** By key. It only saves calls: what is not in it, containerd is asked for. */
export type ActiveSnapshots = Map<string, ActiveSnapshot>;

/** A lease of a call. What is made with its ID belongs to it. */
export class ContainerdLease implements Lease {
  /** The ID of the lease in containerd. */
  readonly id: string;
  /** What was prepared under the lease. */
  readonly active: ActiveSnapshots = new Map();
  readonly #file: LeaseFile;
  readonly #leases: ContainerdLeases;
  readonly #covered = new Set<string>();

  constructor(id: string, file: LeaseFile, leases: ContainerdLeases) {
    this.id = id;
    this.#file = file;
    this.#leases = leases;
  }

  update(needs: Usage): Promise<void> {
    return this.#file.update(needs);
  }

  /**
   * Keeps a committed snapshot that exists already. Look again afterwards whether it exists: a collection may have removed it
   * before. @throws GrpcError
   */
  async cover(name: string): Promise<void> {
    if (this.#covered.has(name)) return;
    await this.#leases.add(this.id, name);
    this.#covered.add(name);
  }

  /** The snapshot of this name was committed under the lease, so containerd has added it. */
  committed(name: string): void {
    this.#covered.add(name);
  }

  covers(name: string): boolean {
    return this.#covered.has(name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#leases.end(this.id);
    await this.#file[Symbol.asyncDispose]();
  }
}

/** The leases of one state directory. The snapshotter takes them. */
export class ContainerdLeases {
  readonly #client: ContainerdClient;
  readonly #snapshotter: string;
  readonly #prefix: string;
  readonly #files: Leases;

  constructor(client: ContainerdClient, snapshotter: string, state: State, files: Leases) {
    this.#client = client;
    this.#snapshotter = snapshotter;
    this.#prefix = `unpackd-${state.id}-`;
    this.#files = files;
  }

  /** Takes a lease, after it has ended those of dead processes. @throws GrpcError; as `Leases.take` */
  async take(names: readonly string[], owner: Owner, needs?: Usage): Promise<ContainerdLease> {
    await this.endDead();
    const file = await this.#files.take(names, owner, needs);
    const id = `${this.#prefix}${file.id}`;
    try {
      await this.#client.leases.Create({ id, labels: expiring(EXPIRY) });
    } catch (error) {
      await this.end(id); // it may exist although the answer is missing
      await file[Symbol.asyncDispose]();
      throw error;
    }
    return new ContainerdLease(id, file, this);
  }

  /** @throws GrpcError */
  async add(lease: string, snapshot: string): Promise<void> {
    const resource = { id: snapshot, type: `snapshots/${this.#snapshotter}` };
    await this.#client.leases.AddResource({ id: lease, resource });
  }

  /**
   * Deletes a lease. It does not wait for the collection that follows, which may have to wait for others. If containerd
   * cannot delete it now, the next lease or cleanup does, because its file is not held any more.
   */
  async end(id: string): Promise<void> {
    await this.#client.leases.Delete({ id, sync: false }, { deadline: END_LIMIT }).catch(() => {});
  }

  /**
   * Deletes the leases of dead processes with this state directory.
   * @returns how many there were @throws GrpcError; system errors
   */
  async endDead(): Promise<number> {
    // the leases first: each of them has a locked file as long as its process lives
    const { leases } = await this.#client.leases.List({ filters: [`id~="^${this.#prefix}"`] });
    const own = leases.map(({ id }) => id).filter((id) => id.startsWith(this.#prefix));
    const dead = own.filter((id) => !this.#files.isHeld(id.slice(this.#prefix.length)));
    for (const id of dead) await this.end(id);
    return dead.length;
  }
}

/** The label of a lease that containerd ends by itself, if nobody has deleted it after so many milliseconds. */
export function expiring(milliseconds: number): Labels {
  return { 'containerd.io/gc.expire': new Date(Date.now() + milliseconds).toISOString() };
}

/** Milliseconds until containerd ends the lease of `collect`, if this process dies meanwhile. */
const COLLECT_EXPIRY = 3_600_000;

/**
 * Lets containerd collect what nothing needs any more, and waits for the end. Only a collection deletes files of removed
 * snapshots. @throws GrpcError
 */
export async function collect({ leases }: Pick<ContainerdClient, 'leases'>): Promise<void> {
  const id = `unpackd-collect-${randomBytes(8).toString('hex')}`;
  try {
    await leases.Create({ id, labels: expiring(COLLECT_EXPIRY) });
    // a collection follows the end of any lease
    await leases.Delete({ id, sync: true });
  } catch (error) {
    // a collection that takes longer ends without us
    if (!isGrpcError(error, 'DEADLINE_EXCEEDED')) throw error;
  }
}
