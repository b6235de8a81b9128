import { abortError } from '../../src/errors.ts';
import type { ImageState, LayerPhase, LayerState } from '../../src/image/progress.ts';
import type { StoreKeeper, UnpackedImage, Unpacker, UnpackOptions } from '../../src/image/unpack.ts';
import type { PresenceFacts } from '../../src/queue/worker.ts';
import type { ImageListing } from '../../src/snapshots/images.ts';

/** One call of the unpacker. */
export interface Call extends UnpackOptions {
  readonly bucket: string;
  /** Calls so far for this bucket, this one included. */
  readonly number: number;
}

export type Script = (call: Call) => Promise<UnpackedImage[]> | UnpackedImage[];

/** What the store has; default: nothing, so that the script runs for every job. */
export interface ScriptedStore {
  /** Without asking the source. */
  readonly recall?: Unpacker['lookUpCached'];
  /** What the worker asks about its store; default: nothing. */
  readonly keeper?: Partial<StoreKeeper>;
  /** What the worker tells about its store; default: nothing. */
  readonly presence?: PresenceFacts;
  readonly look?: (signal: AbortSignal | undefined) => Promise<readonly UnpackedImage[] | undefined>;
}

/** An unpacker that runs a script instead of unpacking, for tests of the queue. */
export function scriptedUnpacker(script: Script, { recall, look }: ScriptedStore = {}): Unpacker {
  const calls = new Map<string, number>();
  return {
    lookUpCached: recall ?? (async () => undefined),
    lookUp: async (wanted, { signal } = {}) => ({
      wanted,
      images: [],
      began: performance.now(),
      existing: await look?.(signal),
    }),
    async unpack({ wanted: { source } }, options = {}) {
      const bucket = source.kind === 's3' ? source.bucket : source.path;
      const number = (calls.get(bucket) ?? 0) + 1;
      calls.set(bucket, number);
      return script({ ...options, bucket, number });
    },
    async close() {},
  };
}

export function image(...phases: LayerPhase[]): UnpackedImage & { layers: LayerState[] } {
  const layers = phases.map((phase, index) => layer(index, phase));
  return {
    platform: 'linux/amd64',
    manifestDigest: digest(98),
    configDigest: digest(99),
    chainId: layers.at(-1)?.chainId ?? digest(0),
    names: [],
    mounts: [],
    layers,
    warnings: [],
    durable: true,
  };
}

export function layer(index: number, phase: LayerPhase): LayerState {
  const applied = phase === 'applied';
  return {
    diffId: digest(index),
    chainId: digest(100 + index),
    blobDigest: digest(200 + index),
    phase,
    size: 1000,
    fetched: applied ? 1000 : 0,
    unpacked: applied ? 4000 : 0,
    entries: applied ? 7 : 0,
    ...(applied ? { timings: { fetchMs: 1, decompressMs: 2, writeMs: 3, totalMs: 7 } } : {}),
  };
}

export function digest(number: number): string {
  return `sha256:${number.toString(16).padStart(64, '0')}`;
}

/** Resolves the image, and then waits until it is aborted. */
export function untilAborted(
  { signal, onResolved }: Call,
  states: readonly ImageState[] = [image('applying')],
): Promise<never> {
  onResolved?.(states);
  return new Promise((_, reject) => {
    if (signal === undefined) return;
    const onAbort = () => reject(abortError(signal));
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
}

/** A keeper of a sound store without locks, except what a test sets. */
export function scriptedKeeper(keeper: Partial<StoreKeeper>): StoreKeeper {
  return { tidy: async () => {}, check: async () => {}, heldElsewhere: () => undefined, ...keeper };
}

/** An image in a store. */
export function listing(number: number, more: Partial<ImageListing> = {}): ImageListing {
  return {
    reference: `registry.example/app:${number}`,
    platform: 'linux/amd64',
    manifestDigest: digest(10_000 + number),
    configDigest: digest(20_000 + number),
    chainId: digest(30_000 + number),
    source: 's3://images',
    job: `job-${number}`,
    unpacked: new Date(1_700_000_000_000 + number),
    used: new Date(1_700_000_100_000 + number),
    pinned: false,
    own: { bytes: 1000 + number, inodes: 1 },
    shared: { bytes: 0, inodes: 0 },
    unmeasured: 0,
    usedBy: [],
    ...more,
  };
}

/** What a worker tells about a store with these images. */
export function presenceOf(storeIdentity: string | undefined, images: PresenceFacts['images']): PresenceFacts {
  const disk = async () => ({ bytes: 2 ** 30, totalBytes: 2 ** 32, inodes: 1000, totalInodes: 5000 });
  return { storeIdentity, disk, images };
}
