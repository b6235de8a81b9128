import type { Collector } from '../collector/collector.ts';
import type { Marks } from '../collector/free-space.ts';
import { type FailureCode, toUnpackError, UnpackError } from '../errors.ts';
import type { Layer } from '../oci/descriptor.ts';
import { layerType } from '../oci/media-type.ts';
import type { ApplySettings } from '../rootfs/applier.ts';
import { applyLayers } from '../rootfs/apply-layers.ts';
import { ChainLocks } from '../rootfs/chain-locks.ts';
import { StoreSync } from '../rootfs/durability.ts';
import { removeLeftovers } from '../rootfs/leftovers.ts';
import { LockWaits, lockWaitText } from '../rootfs/lock-waits.ts';
import { ApplyPool, type ApplyPoolOptions } from '../rootfs/pool.ts';
import { StoreProbe } from '../rootfs/store-probe.ts';
import { snapshotsDirectory } from '../snapshots/directories.ts';
import type { KnownImage } from '../snapshots/images.ts';
import { NOTHING_TO_MOUNT } from '../snapshots/layout.ts';
import { isSnapshotError, SnapshotError } from '../snapshots/snapshotter.ts';
import type { Store } from '../snapshots/store.ts';
import type { BlobSource } from '../source/blob-source.ts';
import { OpenSources } from '../source/open-sources.ts';
import { DocumentCache } from '../source/read-blob.ts';
import { ImageCache } from './image-cache.ts';
import { type ImageOrigin, ImageRecorder, isFresh } from './image-recorder.ts';
import { type ImageState, observe, stateOf } from './progress.ts';
import type { ResolvedImage } from './request.ts';
import type { Reservation } from './reservation.ts';
import { cachedImages, resolveImages } from './resolve.ts';
import { RoomForImages } from './room-for-images.ts';
import type {
  LookUpOptions,
  Lookup,
  StoreKeeper,
  UnpackedImage,
  Unpacker,
  UnpackOptions,
  WantedImage,
} from './unpack.ts';

/** The settings of a process for unpacking. `unpackSettings` (src/config.ts) returns them. */
export interface UnpackSettings {
  /** Maximum number of layers that are written at the same time. */
  readonly threads: number;
  readonly apply: ApplySettings;
  /** Where the collector starts and stops; `undefined`: it removes nothing. */
  readonly marks?: Marks | undefined;
}

/** Failures after which leftovers are possibly still in the store. */
const LEAVES_LEFTOVERS = new Set<FailureCode>(['STORE_FULL', 'STORE_FAILED', 'INTERNAL']);

/** Makes an unpacker for one store. A worker makes one for all its jobs, `unpackd apply` one for its image. */
export function createUnpacker(
  snapshotter: Store,
  settings: UnpackSettings,
  poolOptions: ApplyPoolOptions = {},
): Unpacker & {
  readonly keeper: StoreKeeper;
  readonly collector: Collector;
  readonly threads: Pick<ApplyPool, 'use'>;
} {
  const pool = new ApplyPool(settings.threads, settings.apply, poolOptions);
  const locks = new ChainLocks(snapshotter.state);
  const storeSync = new StoreSync(snapshotsDirectory(snapshotter.root));
  const probe = new StoreProbe(snapshotter, locks);
  const room = new RoomForImages(snapshotter, settings.marks);
  const sources = new OpenSources();
  const cache = new DocumentCache();
  const imageCache = new ImageCache();
  const recorder = new ImageRecorder(snapshotter);
  /** In containerd, also layers of others are found, which nobody has synced. */
  const findsSyncedOnly = snapshotter.durable && snapshotter.collectedBy === 'unpackd';
  /** The results for images that the store has. The keys are the arrays of `imageCache`. */
  const existing = new WeakMap<readonly ResolvedImage[], readonly UnpackedImage[]>();

  async function lookUpCached({ image, source, request }: WantedImage): Promise<readonly UnpackedImage[] | undefined> {
    snapshotter.checkReference(image);
    const images = cachedImages(sources.get(source), request, imageCache);
    if (images === undefined) return undefined;
    const known = await recorder.lookUp(images, image);
    return known?.every(isFresh) ? ifExisting(images, image, known) : undefined;
  }

  async function lookUp(wanted: WantedImage, { signal, job }: LookUpOptions = {}): Promise<Lookup> {
    const began = performance.now();
    snapshotter.checkReference(wanted.image);
    const source = sources.get(wanted.source);
    const images = await resolveImages(source, wanted.request, { signal, cache, imageCache });
    const origin = { reference: wanted.image, source: source.name, job };
    return { wanted, images, began, existing: await recordIfExisting(images, origin) };
  }

  async function recordIfExisting(
    images: readonly ResolvedImage[],
    origin: ImageOrigin,
  ): Promise<readonly UnpackedImage[] | undefined> {
    const known = await recorder.lookUp(images, origin.reference);
    if (known === undefined) return undefined;
    try {
      for (const index of images.keys()) await recorder.record(images, index, origin, { known: known[index] });
    } catch (error) {
      if (isSnapshotError(error, 'NotFound')) return undefined; // it was removed just now
      throw storeFailure(error, snapshotter.root);
    }
    return ifExisting(images, origin.reference, known);
  }

  async function ifExisting(
    images: readonly ResolvedImage[],
    reference: string,
    known: readonly KnownImage[],
  ): Promise<readonly UnpackedImage[] | undefined> {
    let result = existing.get(images);
    // the mounts change if a layer was unpacked again
    if (!result?.every((image, index) => image.mounts === known[index]?.mounts)) {
      result = images.map((image, index) => ({
        ...stateOf(image, 'existed'),
        ...configOf(image),
        names: [],
        mounts: known[index]?.mounts ?? [],
        warnings: image.warnings,
        durable: true,
      }));
      existing.set(images, result);
    }
    const names = recorder.namesOf(images, reference);
    if (names.some(({ length }) => length > 0)) {
      // the same images have other names in other jobs
      result = result.map((image, index) => ({ ...image, names: names[index] ?? [] }));
    }
    if (findsSyncedOnly) return result;
    try {
      const now = await Promise.all(result.map(withDurability));
      return now.every(({ durable }) => durable) ? result : now;
    } catch (error) {
      if (isSnapshotError(error, 'NotFound')) return undefined; // it was removed just now
      throw error;
    }
  }

  /** Adds whether all layers are on disk, and a warning if this process cannot know whether they will be. */
  async function withDurability(image: Omit<UnpackedImage, 'durable'>): Promise<UnpackedImage> {
    if (findsSyncedOnly || image.chainId === undefined) return { ...image, durable: true };
    const below = image.layers.slice(0, -1).map(({ chainId }) => chainId);
    const { own, others } = await snapshotter.unsynced(image.chainId, below);
    if (others === 0) return { ...image, durable: own === 0 };
    const warning = `${others} of ${image.layers.length} layers ${unsyncedText(snapshotter)}`;
    return { ...image, warnings: [...image.warnings, warning], durable: false };
  }

  /** Whether a failed call has possibly left something in the store. */
  let leftovers = false;

  async function unpack(found: Lookup, call: UnpackOptions = {}): Promise<UnpackedImage[]> {
    try {
      if (leftovers) await tidyUp(call.log);
      return await unpackImages(found, call);
    } catch (thrown) {
      const error = storeFailure(thrown, snapshotter.root);
      if (LEAVES_LEFTOVERS.has(toUnpackError(error).code)) leftovers = true;
      throw error;
    }
  }

  /** Frees the space of failed layers before the next attempt needs it. */
  async function tidyUp(log: UnpackOptions['log']): Promise<void> {
    leftovers = false;
    try {
      await removeLeftovers(snapshotter, log, locks);
    } catch (error) {
      leftovers = true;
      log?.('warn', `the leftovers of a failed job cannot be removed yet: ${toUnpackError(error).message}`);
    }
  }

  async function unpackImages({ wanted, images, began }: Lookup, call: UnpackOptions): Promise<UnpackedImage[]> {
    // before any look at the store, so that no layer of this call can be removed after it was seen
    const chainIds = new Set(images.flatMap(({ layers }) => layers.map(({ chainId }) => chainId)));
    await using lease = await snapshotter.lease([...chainIds], call.owner ?? {});
    const store = snapshotter.under(lease);
    const states = images.map((image) => stateOf(image, 'queued'));
    call.onResolved?.(states);
    const origin = originOf(wanted, sources.get(wanted.source), call);
    await recorder.keepDocuments(images, origin, store);
    return await room.during(images, lease, call, (reservation) =>
      applyImages({ wanted, images, began }, states, { store, reservation }, call),
    );
  }

  async function applyImages(
    { wanted, images, began }: Pick<Lookup, 'wanted' | 'images' | 'began'>,
    states: readonly ImageState[],
    { store, reservation }: { readonly store: Store; readonly reservation: Reservation },
    call: UnpackOptions,
  ): Promise<UnpackedImage[]> {
    const source = sources.get(wanted.source);
    const applier = pool.applier(source, store);
    const unpacked: UnpackedImage[] = [];
    const onBlocked: UnpackOptions['onBlocked'] =
      call.onBlocked ?? ((wait) => call.log?.('info', `waits for ${lockWaitText(wait)}`));
    using waits = new LockWaits({ owner: call.owner, onBlocked });
    const origin = originOf(wanted, source, call);
    const names = recorder.namesOf(images, wanted.image);
    // one image after the other, because the layers of one image are parallel already
    for (const [index, image] of images.entries()) {
      const state = states[index];
      if (state === undefined) continue;
      const warnings = [...image.warnings];
      for (const warning of warnings) call.log?.('warn', warning);
      if (image.layers.length === 0) {
        call.log?.('info', 'the image has no layers, so there is nothing to unpack');
      } else {
        const now = () => performance.now() - began;
        const applying = applyLayers(image.layers, store, applier, {
          locks,
          waits,
          signal: call.signal,
          log: call.log,
          missing: reservation.missing,
          observer: reservation.observing(
            image.layers,
            observe({ state, warnings, now, log: call.log, watcher: call.watcher }),
          ),
          ...(call.labels === undefined ? {} : { labels: call.labels }),
          watch: () => storeSync.watch(),
        });
        await applying.catch((error: unknown) => Promise.reject(explainMissing(error, image.layers)));
      }
      try {
        await recorder.record(images, index, origin, { store });
        const mounts = state.chainId === undefined ? NOTHING_TO_MOUNT : await store.viewMounts(state.chainId);
        const found = { ...configOf(image), names: names[index] ?? [], mounts, warnings };
        unpacked.push(await withDurability({ ...state, ...found }));
      } catch (error) {
        throw isSnapshotError(error, 'NotFound') ? lostLayers(snapshotter.root, wanted.image) : error;
      }
    }
    return unpacked;
  }

  return {
    lookUpCached,
    lookUp,
    unpack,
    collector: room.collector,
    threads: pool,
    keeper: {
      tidy: (log) => probe.tidy(log),
      check: (log) => probe.check(log),
      heldElsewhere: (chainId) => locks.heldElsewhere(chainId),
    },
    async close() {
      sources.close();
      await pool.close();
      storeSync[Symbol.dispose]();
    },
  };
}

function originOf({ image }: WantedImage, { name }: BlobSource, { owner }: UnpackOptions): ImageOrigin {
  return { reference: image, source: name, job: owner?.job };
}

function configOf({ config }: ResolvedImage): Pick<UnpackedImage, 'config'> {
  return config === undefined ? {} : { config };
}

/** Why layers that this process has not written are possibly not on disk, and what to do: the end of a sentence about them. */
function unsyncedText({ collectedBy, durable }: Store): string {
  if (collectedBy === 'unpackd') {
    return 'may be lost in a power cut, because another process, or an earlier version, has left them unsynced; a worker with UNPACK_DURABLE=true unpacks them again';
  }
  if (!durable) {
    return 'may be lost in a power cut, because others have unpacked them, and containerd does not sync; a worker with UNPACK_DURABLE=true syncs them';
  }
  return 'may be incomplete, because others unpacked them before this machine started, and containerd does not sync; if the machine had lost its power, remove the image and unpack it again';
}

/** @returns STORE_FAILED for a call that the store refuses at a time when no job should see that; any other error unchanged */
function storeFailure(error: unknown, root: string): unknown {
  if (!(error instanceof SnapshotError)) return error;
  return new UnpackError('STORE_FAILED', `the store ${root} refuses a call of the job: ${error.message}`, {
    cause: error,
  });
}

/** A lease keeps the layers of a running job. A program that knows no leases, or a person, can still remove them. */
function lostLayers(root: string, image: string): UnpackError {
  return new UnpackError(
    'STORE_FAILED',
    `${root} lost layers of ${image} while it was unpacked: look for a program that removes snapshots there, and unpack the image again`,
  );
}

/** Explains a missing blob of a non-distributable layer: mirrors leave such layers out. */
function explainMissing(error: unknown, layers: readonly Layer[]): unknown {
  if (!(error instanceof UnpackError) || error.code !== 'BLOB_NOT_FOUND') return error;
  const mediaType = layers[error.details.layerIndex ?? -1]?.blob.mediaType;
  if (mediaType === undefined || !layerType(mediaType).foreign) return error;
  return new UnpackError(
    'BLOB_NOT_FOUND',
    `${error.message}; the layer is non-distributable (${mediaType}), and mirrors leave such layers out by default: upload its blob too, or push an image without such layers`,
    { cause: error, details: error.details },
  );
}
