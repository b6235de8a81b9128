import { type Amount, NOTHING, sum } from '../collector/free-space.ts';
import type { Needs } from '../collector/room.ts';
import type { ChainLayer, Layer } from '../oci/descriptor.ts';
import type { ChainId } from '../oci/digest.ts';
import type { LayerObserver } from '../rootfs/apply-layers.ts';
import type { Lease, Snapshotter } from '../snapshots/snapshotter.ts';
import type { ResolvedImage } from './request.ts';

/** Minimum milliseconds between two writes of what a job still needs. */
const STEP = 1000;

/** The layers of the images that the store does not have, each once. */
export async function missingLayers(
  images: readonly ResolvedImage[],
  store: Pick<Snapshotter, 'has'>,
): Promise<ChainLayer[]> {
  const missing = new Map<string, ChainLayer>();
  for (const { layers } of images) {
    // all at once, because each answer of containerd takes a millisecond
    const exist = await Promise.all(
      layers.map(async (layer) => missing.has(layer.chainId) || (await store.has(layer.chainId))),
    );
    // if a snapshot exists, those below it exist
    for (const layer of layers.slice(exist.lastIndexOf(true) + 1).toReversed()) missing.set(layer.chainId, layer);
  }
  return [...missing.values()];
}

/** The room that a job has reserved. It shrinks while the layers are written, so that other jobs do not wait for it. */
export class Reservation {
  readonly #lease: Lease;
  readonly #onSize: (layer: Layer, size: Amount) => void;
  /** By chain ID. */
  readonly #open = new Map<string, { readonly layer: ChainLayer; readonly likely: Amount; written: Amount }>();
  #last = performance.now();

  /** @param onSize called with each layer that was written, and with its size */
  constructor(
    lease: Lease,
    layers: readonly ChainLayer[],
    needs: readonly Needs[],
    onSize: (layer: Layer, size: Amount) => void,
  ) {
    this.#lease = lease;
    this.#onSize = onSize;
    for (const [index, layer] of layers.entries()) {
      this.#open.set(layer.chainId, { layer, likely: needs[index]?.likely ?? NOTHING, written: NOTHING });
    }
  }

  /** The layers that are being written, and what is written of each. */
  get parts(): readonly { readonly layer: Layer; readonly written: Amount }[] {
    return [...this.#open.values()].filter(({ written }) => written.bytes > 0);
  }

  /** The layers that the store does not have yet. */
  get missing(): ReadonlySet<ChainId> {
    return new Set([...this.#open.values()].map(({ layer }) => layer.chainId));
  }

  /** Watches the layers of one image. @param next gets everything too */
  observing(layers: readonly ChainLayer[], next: LayerObserver): LayerObserver {
    const chainId = (index: number): string => layers[index]?.chainId ?? '';
    return {
      phase: (index, phase) => {
        if ((phase === 'applied' || phase === 'existed') && this.#open.delete(chainId(index))) this.#update();
        next.phase(index, phase);
      },
      waitsBelow: (index, yes) => next.waitsBelow(index, yes),
      progress: (index, progress) => {
        const open = this.#open.get(chainId(index));
        if (open !== undefined) open.written = { bytes: progress.unpacked, inodes: progress.entries };
        if (performance.now() - this.#last >= STEP) this.#update();
        next.progress(index, progress);
      },
      done: (index, diff) => {
        const layer = layers[index];
        if (layer !== undefined) this.#onSize(layer, diff.usage);
        next.done(index, diff);
      },
    };
  }

  #update(): void {
    this.#last = performance.now();
    // one byte while it writes: a layer can be larger than expected, and others wait for jobs that need something
    let needs: Amount = { bytes: this.#open.size === 0 ? 0 : 1, inodes: 0 };
    for (const { likely, written } of this.#open.values()) needs = sum(needs, rest(likely, written));
    // a lease that says too much only makes others wait
    this.#lease.update(needs).catch(() => {});
  }
}

function rest(likely: Amount, written: Amount): Amount {
  return {
    bytes: Math.max(0, likely.bytes - written.bytes),
    inodes: Math.max(0, likely.inodes - written.inodes),
  };
}
