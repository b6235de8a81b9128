import { RecentlyUsed } from '../recently-used.ts';
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
  readonly #byDigest = new RecentlyUsed<readonly ResolvedImage[]>(MOST_LAYERS, layersOf);
  readonly #byLayers = new WeakMap<ImageTarget, readonly ResolvedImage[]>();

  /** @param source the name of the source: what another source has is not what this one has */
  get(source: string, top: TagTarget, platforms: ImageRequest['platforms']): readonly ResolvedImage[] | undefined {
    return this.#byDigest.get(keyOf(source, top, platforms));
  }

  set(source: string, top: TagTarget, platforms: ImageRequest['platforms'], images: readonly ResolvedImage[]): void {
    this.#byDigest.add(keyOf(source, top, platforms), images);
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
function keyOf(source: string, top: TagTarget, platforms: ImageRequest['platforms']): string {
  const { digest, mediaType, size, warnings = [], entries = [] } = top;
  const chosen = Array.isArray(platforms) ? JSON.stringify(platforms) : platforms;
  const odd = warnings.length + entries.length === 0 ? '' : JSON.stringify([warnings, entries]);
  return `${source}\n${digest}\n${mediaType}\n${size}\n${chosen}\n${odd}`;
}

function layersOf(images: readonly ResolvedImage[]): number {
  return images.reduce((sum, { layers }) => sum + layers.length + 1, 0);
}
