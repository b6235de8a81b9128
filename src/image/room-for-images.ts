import { Collector } from '../collector/collector.ts';
import { amountOn, type Marks, missingOf } from '../collector/free-space.ts';
import { type Needs, Room } from '../collector/room.ts';
import { toUnpackError } from '../errors.ts';
import type { ChainLayer } from '../oci/descriptor.ts';
import type { Lease } from '../snapshots/snapshotter.ts';
import type { Store } from '../snapshots/store.ts';
import { LayerSizes, total } from './layer-sizes.ts';
import type { ResolvedImage } from './request.ts';
import { missingLayers, Reservation } from './reservation.ts';
import type { UnpackOptions } from './unpack.ts';

/**
 * Keeps the disk from filling up while images are unpacked: reserves room before a job downloads anything, and removes
 * images after a job has filled the disk all the same. The unpacker has one for its store.
 */
export class RoomForImages {
  readonly collector: Collector;
  readonly #store: Store;
  readonly #room: Room;
  readonly #sizes: LayerSizes;

  /** @param marks where the collector starts and stops; `undefined`: it removes nothing */
  constructor(store: Store, marks: Marks | undefined) {
    this.#store = store;
    this.collector = new Collector(store, marks);
    this.#room = new Room(this.collector);
    this.#sizes = new LayerSizes(store);
  }

  /**
   * Reserves room for the missing layers of `images`, and runs `body`.
   * @param lease of the caller, on all layers of the images
   * @throws UnpackError STORE_FULL if there is no room; and as `body`
   */
  async during<T>(
    images: readonly ResolvedImage[],
    lease: Lease,
    call: Pick<UnpackOptions, 'signal' | 'log'>,
    body: (reservation: Reservation) => Promise<T>,
  ): Promise<T> {
    const missing = await missingLayers(images, this.#store);
    const needs = missing.length === 0 ? [] : await this.#reserve(missing, lease, call);
    const reservation = new Reservation(lease, missing, needs, (layer, size) => this.#sizes.remember(layer, size));
    try {
      return await body(reservation);
    } catch (error) {
      if (toUnpackError(error).code === 'STORE_FULL') {
        // the next attempt reserves more, and finds more room
        for (const { layer, written } of reservation.parts) this.#sizes.rememberPart(layer, written);
        await this.#makeRoom(call);
      }
      throw error;
    }
  }

  /** Looks at the snapshots of the store only if there may be too little room, because a large store has many. */
  async #reserve(
    missing: readonly ChainLayer[],
    lease: Lease,
    call: Pick<UnpackOptions, 'signal' | 'log'>,
  ): Promise<readonly Needs[]> {
    const rough = this.#sizes.roughNeedsOf(missing);
    if (await this.#room.tryReserve(lease, total(rough), call.signal)) return rough;
    const needs = await this.#sizes.needsOf(missing);
    await this.#room.reserve(lease, total(needs), call);
    return needs;
  }

  /** A failure is only logged, because the job has failed for another reason. */
  async #makeRoom({ log, signal }: Pick<UnpackOptions, 'signal' | 'log'>): Promise<void> {
    const { marks } = this.collector;
    if (marks === undefined) return;
    try {
      const why = 'the disk was too full for a job';
      await this.collector.collect((disk) => missingOf(disk, amountOn(disk, marks.high)), { why, log, signal });
    } catch (error) {
      log?.('warn', `images could not be removed: ${toUnpackError(error).message}`);
    }
  }
}
