import { setTimeout as sleep } from 'node:timers/promises';
import { makeRoomIn } from '../errno.ts';
import { throwIfAborted, UnpackError } from '../errors.ts';
import type { Log } from '../rootfs/applier.ts';
import { Leases } from '../snapshots/leases.ts';
import type { Lease } from '../snapshots/snapshotter.ts';
import { type Disk, diskOf } from '../system/space.ts';
import { bytesText, count } from '../units.ts';
import type { Collector } from './collector.ts';
import {
  type Amount,
  amountOn,
  isBelow,
  isNothing,
  larger,
  missingOf,
  NOTHING,
  plus,
  spaceText,
  sum,
} from './free-space.ts';
import { amountText, keptText } from './plan-text.ts';
import { StoreLock } from './store-lock.ts';

/** Milliseconds between two looks while a job waits until others have ended. */
const LOOK = 1000;

/** What the missing layers of a job take on disk. */
export interface Needs {
  /** What they take at least. Without this room, the job cannot succeed. */
  readonly least: Amount;
  /** What they probably take. */
  readonly likely: Amount;
}

export interface ReserveOptions {
  readonly signal?: AbortSignal | undefined;
  readonly log?: Log | undefined;
}

/** The disk, and what other jobs have reserved on it. */
interface Situation {
  readonly disk: Disk;
  /** The number of other jobs that have reserved room. */
  readonly others: number;
  readonly reserved: Amount;
}

/**
 * The room on the disk of a store. A job reserves room for its missing layers before it downloads them: its lease says what
 * it still needs, so that other jobs, also of other processes, do not count on the same room.
 *
 * If there is no room, images are removed, if the collector is on. If this is not enough, the job waits for the jobs that have
 * reserved room: they end, need less than they reserved, or leave images that can be removed. A job that cannot fit even
 * then fails at once. A job that waits has reserved nothing, so two jobs never wait for each other.
 */
export class Room {
  readonly #root: string;
  readonly #collector: Collector;
  readonly #leases: Leases;
  readonly #lock: StoreLock;

  constructor(collector: Collector) {
    this.#root = collector.store.root;
    this.#collector = collector;
    this.#leases = new Leases(collector.store.state);
    this.#lock = new StoreLock(collector.store.state, 'room');
  }

  /**
   * Reserves room, if what the job probably needs is free, and the lower mark beside it: a layer can be larger than expected.
   * @returns whether it is reserved
   */
  async tryReserve(lease: Lease, needs: Needs, signal?: AbortSignal): Promise<boolean> {
    return (await this.#try(lease, needs, 'with spare', signal)) === undefined;
  }

  /**
   * Reserves room: writes what the job needs into its lease.
   * @throws UnpackError STORE_FULL with what is needed, what is free and what could be freed; the reason of the signal
   */
  async reserve(lease: Lease, needs: Needs, options: ReserveOptions = {}): Promise<void> {
    const { signal, log } = options;
    for (let waits = false; ; waits = true) {
      if (await this.tryReserve(lease, needs, signal)) return;
      if (await this.#canMakeRoom(needs)) await this.#makeRoom(needs, options);
      const found = await this.#try(lease, needs, 'what must be', signal);
      if (found === undefined) return;
      if (found.others === 0 || (await this.#isHopeless(needs, found))) throw await this.#full(needs, found);
      if (!waits) log?.('info', `waits until other jobs have ended: ${needText(needs)}, and ${freeText(needs, found)}`);
      await sleep(LOOK, undefined, signal === undefined ? {} : { signal }).catch(() => throwIfAborted(signal));
    }
  }

  /**
   * Reserves what the job probably needs, if there is room.
   * @param room `with spare`: the lower mark must be free beside it, if images can be removed. `what must be`: the least is
   *   enough if no other job has reserved room
   * @returns `undefined` if it is reserved
   */
  async #try(
    lease: Lease,
    needs: Needs,
    room: 'with spare' | 'what must be',
    signal?: AbortSignal,
  ): Promise<Situation | undefined> {
    // one job at a time, so that two do not reserve the same room
    using _lock = await this.#lock.acquire(signal);
    const found = await this.#look();
    const needed = room === 'what must be' && found.others === 0 ? needs.least : needs.likely;
    const { marks } = this.#collector;
    const spare = room === 'with spare' && marks !== undefined ? amountOn(found.disk, marks.low) : NOTHING;
    if (!isNothing(missingOf(found.disk, sum(sum(needed, found.reserved), spare)))) return found;
    await lease.update(needs.likely);
    return undefined;
  }

  async #look(): Promise<Situation> {
    const disk = await diskOf(this.#root);
    // a job that has reserved nothing, as the caller's, is not counted
    const others = this.#leases.held().filter((lease) => !isNothing(lease.needs));
    return { disk, others: others.length, reserved: others.reduce((all, { needs }) => sum(all, needs), NOTHING) };
  }

  /** Whether the collector is on and can free what the job needs at least. Otherwise no image goes in vain. */
  async #canMakeRoom({ least }: Needs): Promise<boolean> {
    if (!(await this.#collects())) return false;
    const { disk, reserved } = await this.#look();
    const { couldFree } = await this.#collector.plan(NOTHING);
    return isNothing(missingOf(plus(disk, couldFree), sum(least, reserved)));
  }

  /** Removes images until there is room and still the lower mark free beside it. */
  async #makeRoom({ likely }: Needs, { signal, log }: ReserveOptions): Promise<void> {
    const { marks } = this.#collector;
    if (marks === undefined) return;
    const { reserved, disk } = await this.#look();
    const isDue = isBelow(disk, marks.low);
    await this.#collector.collect(
      (disk) => {
        const wanted = sum(sum(likely, reserved), amountOn(disk, marks.low));
        const high = isDue ? missingOf(disk, amountOn(disk, marks.high)) : NOTHING;
        return larger(missingOf(disk, wanted), high);
      },
      { why: `a job needs ${bytesText(likely.bytes)}`, signal, log },
    );
  }

  /** Whether there can be no room even when all other jobs have ended, and their images are removed. */
  async #isHopeless({ least }: Needs, { disk, reserved }: Situation): Promise<boolean> {
    if (!(await this.#collects())) return !isNothing(missingOf(disk, least));
    const { couldFree } = await this.#collector.plan(NOTHING, { withoutLeases: true });
    return !isNothing(missingOf(plus(disk, sum(couldFree, reserved)), least));
  }

  async #collects(): Promise<boolean> {
    return this.#collector.marks !== undefined && (await this.#collector.whyOff()) === undefined;
  }

  async #full(needs: Needs, found: Situation): Promise<UnpackError> {
    const facts = `${needText(needs)}, and ${freeText(needs, found)}`;
    return new UnpackError('STORE_FULL', `${this.#root} has no room for the image: ${facts}; ${await this.#advice()}`);
  }

  async #advice(): Promise<string> {
    const { collectedBy } = this.#collector.store;
    if (collectedBy === 'containerd') return makeRoomIn(collectedBy);
    const why = await this.#collector.whyOff();
    if (why !== undefined)
      return `no image can be removed by itself, because ${why}: remove some, or use a larger disk`;
    const { couldFree, kept } = await this.#collector.plan(NOTHING);
    const stays = keptText(kept);
    const could = `${isNothing(couldFree) ? 'nothing' : bytesText(couldFree.bytes)} could be freed`;
    if (isNothing(couldFree))
      return stays === ''
        ? `${could}: use a larger disk`
        : `${could} (${stays}): unpin or unmount images, or use a larger disk`;
    const how = this.#collector.marks === undefined ? ' (unpackd gc, or UNPACK_GC_LOW and UNPACK_GC_HIGH)' : '';
    return `${could}: remove images${how}, or use a larger disk`;
  }
}

function needText({ least }: Needs): string {
  return `its missing layers need ${amountText(least)} at least`;
}

function freeText({ least }: Needs, { disk, others, reserved }: Situation): string {
  const few = missingOf(disk, sum(least, reserved)).inodes > 0;
  const free = few ? spaceText(disk) : bytesText(disk.bytes);
  const promised = others === 0 ? '' : `, of which ${count(others, 'other job')} still need ${amountText(reserved)}`;
  return `${free} is free${promised}`;
}
