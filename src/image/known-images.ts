import type { TagTarget } from '../source/blob-source.ts';
import type { ImageRequest, ImageTarget, ResolvedImage } from './request.ts';

/** Layers of images that are remembered: some ten megabytes. */
const MOST_LAYERS = 20_000;

/**
 * What digests and lists of layers have come to before. A digest stands for the same bytes for ever, and they for the same
 * images; the document cache would save the request, but not reading and checking the documents again.
 *
 * The same images are the same array, so that who asks may keep what is made of them by it.
 */
export class KnownImages {
  /** In the order of their last use. */
  readonly #byDigest = new Map<string, readonly ResolvedImage[]>();
  readonly #byLayers = new WeakMap<ImageTarget, readonly ResolvedImage[]>();
  #layers = 0;

  /** @param source the name of the source: what another source has is not what this one has */
  get(source: string, top: TagTarget, platforms: ImageRequest['platforms']): readonly ResolvedImage[] | undefined {
    const key = keyOf(source, top, platforms);
    const images = this.#byDigest.get(key);
    if (images === undefined) return undefined;
    this.#byDigest.delete(key);
    this.#byDigest.set(key, images);
    return images;
  }

  set(source: string, top: TagTarget, platforms: ImageRequest['platforms'], images: readonly ResolvedImage[]): void {
    const key = keyOf(source, top, platforms);
    if (this.#byDigest.has(key)) return;
    this.#byDigest.set(key, images);
    this.#layers += layersOf(images);
    for (const [oldest, those] of this.#byDigest) {
      if (this.#layers <= MOST_LAYERS) break;
      this.#byDigest.delete(oldest);
      this.#layers -= layersOf(those);
    }
  }

  /** The image of explicit layers, checked by `make` the first time. */
  ofLayers(target: ImageTarget, make: () => readonly ResolvedImage[]): readonly ResolvedImage[] {
    const known = this.layersBefore(target);
    if (known !== undefined) return known;
    const images = make();
    this.#byLayers.set(target, images);
    return images;
  }

  layersBefore(target: ImageTarget): readonly ResolvedImage[] | undefined {
    return this.#byLayers.get(target);
  }
}

/** All that decides which images a document leads to; none of it has a line break. */
function keyOf(source: string, { digest, mediaType, size }: TagTarget, platforms: ImageRequest['platforms']): string {
  const chosen = Array.isArray(platforms) ? JSON.stringify(platforms) : platforms;
  return `${source}\n${digest}\n${mediaType}\n${size}\n${chosen}`;
}

const layersOf = (images: readonly ResolvedImage[]): number =>
  images.reduce((sum, { layers }) => sum + layers.length, 0);
