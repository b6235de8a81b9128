import { type Amount, larger, NOTHING, sum } from '../collector/free-space.ts';
import type { Needs } from '../collector/room.ts';
import { LruCache } from '../lru-cache.ts';
import type { Layer } from '../oci/descriptor.ts';
import type { DiffId } from '../oci/digest.ts';
import { LABEL_DIFF_ID, type Snapshotter } from '../snapshots/snapshotter.ts';

/** How much more than its blob a compressed layer probably takes, at least. Layers of usual images: two to four times. */
const RATIO = 3;
/** Bytes of blobs after which the layers that were unpacked count as much as RATIO. */
const PRIOR = 256 << 10;
/** Bytes of blobs after which older layers count half. */
const HALF = 1 << 30;
/** Number of layers whose sizes a process remembers. */
const REMEMBERED = 10_000;
/** eStargz: the size of the tar (stargz-snapshotter, docs/estargz.md). */
const SIZE_ANNOTATION = 'io.containers.estargz.uncompressed-size';

/**
 * What layers take on disk, before they are downloaded: from the layers that this process has unpacked, from the snapshots
 * of the store, from the manifest, or guessed from the size of the blob. The unpacker reserves room with it.
 */
export class LayerSizes {
  readonly #store: Pick<Snapshotter, 'walk'>;
  /** By DiffID. */
  readonly #known = new LruCache<Amount>(REMEMBERED);
  /** By DiffID: what a layer had written when the disk was full. */
  readonly #atLeast = new Map<DiffId, Amount>();
  /** Bytes of compressed layers that were unpacked, as blobs and on disk. */
  #seen = { blobs: PRIOR, onDisk: PRIOR * RATIO };

  constructor(store: Pick<Snapshotter, 'walk'>) {
    this.#store = store;
  }

  /** Remembers the size of a layer that was unpacked. */
  remember({ blob, diff }: Layer, size: Amount): void {
    this.#atLeast.delete(diff.digest);
    this.#known.add(diff.digest, size);
    if (isTar({ blob, diff })) return;
    const { blobs, onDisk } = this.#seen;
    const share = blobs > HALF ? 0.5 : 1;
    this.#seen = { blobs: blobs * share + blob.size, onDisk: onDisk * share + size.bytes };
  }

  /** Remembers how much of a layer was written when the disk was full, so that the next attempt reserves more. */
  rememberPart({ diff }: Layer, written: Amount): void {
    if (this.#atLeast.size >= REMEMBERED) this.#atLeast.clear();
    this.#atLeast.set(diff.digest, written);
  }

  /** What each of these layers takes, from what this process knows. It takes no time. */
  roughNeedsOf(layers: readonly Layer[]): readonly Needs[] {
    return layers.map((layer) => this.#needsOf(layer, this.#known.get(layer.diff.digest)));
  }

  /** The same, also from the snapshots of the store, which are all read if this process does not know a layer. */
  async needsOf(layers: readonly Layer[]): Promise<readonly Needs[]> {
    if (layers.every(({ diff }) => this.#known.get(diff.digest) !== undefined)) return this.roughNeedsOf(layers);
    const stored = await this.#stored();
    return layers.map((layer) => {
      const { digest } = layer.diff;
      return this.#needsOf(layer, this.#known.get(digest) ?? stored.get(digest));
    });
  }

  #needsOf(layer: Layer, size: Amount | undefined): Needs {
    return size === undefined ? this.#guess(layer) : { least: size, likely: size };
  }

  #guess({ blob, diff }: Layer): Needs {
    const part = this.#atLeast.get(diff.digest);
    const tar = tarSize({ blob, diff });
    const least = { bytes: Math.max(tar ?? blob.size, part?.bytes ?? 0), inodes: part?.inodes ?? 0 };
    const likely = { bytes: tar ?? Math.ceil(blob.size * this.#ratio), inodes: least.inodes };
    // twice as much as was written when the disk was full, because nobody knows how much was to come
    return part === undefined ? { least, likely } : { least, likely: larger(likely, sum(part, part)) };
  }

  /** How much more than its blob a compressed layer probably takes: as those that this process has unpacked. */
  get #ratio(): number {
    return Math.max(RATIO, this.#seen.onDisk / this.#seen.blobs);
  }

  /** The sizes of the committed snapshots, by DiffID. */
  async #stored(): Promise<Map<string, Amount>> {
    const sizes = new Map<string, Amount>();
    for (const { labels, size } of await this.#store.walk({ kind: 'committed' })) {
      const diffId = labels[LABEL_DIFF_ID];
      if (diffId !== undefined && size !== undefined) sizes.set(diffId, size);
    }
    return sizes;
  }
}

/** Whether the blob of a layer is the tar itself. */
function isTar({ blob, diff }: Layer): boolean {
  return (blob.digest as string) === (diff.digest as string);
}

/** The size of the tar of a layer, if its descriptor tells it. */
function tarSize({ blob, diff }: Layer): number | undefined {
  if (isTar({ blob, diff })) return blob.size;
  const annotation = blob.annotations?.[SIZE_ANNOTATION] ?? '';
  return /^\d{1,15}$/.test(annotation) ? Number(annotation) : undefined;
}

/** The needs of several layers. */
export function total(needs: readonly Needs[]): Needs {
  const add = (all: Needs, one: Needs): Needs => ({
    least: sum(all.least, one.least),
    likely: sum(all.likely, one.likely),
  });
  return needs.reduce(add, { least: NOTHING, likely: NOTHING });
}
