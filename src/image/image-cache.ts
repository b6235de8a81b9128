import { LruCache } from '../lru-cache.ts';
import type { TagTarget } from '../source/blob-source.ts';
import type { ImageRequest, ImageTarget, ResolvedImage } from './request.ts';

/** Maximum number of layers in the cache; they need about ten megabytes. */
const MAX_LAYERS = 20_000;

/**
 * A cache of resolved images, by digest and by list of layers. An entry never becomes stale, because the bytes of a
 * digest never change. The document cache saves only the request; this one also saves parsing and checking the
 * documents.
 *
 * A hit returns the same array each time, so callers can use the array as the key of a WeakMap.
 */
export class ImageCache {
  readonly #byDigest = new LruCache<readonly ResolvedImage[]>(MAX_LAYERS, layersOf);
  readonly #byLayers = new WeakMap<ImageTarget, readonly ResolvedImage[]>();

  /** @param source the name of the source; it is part of the key, because another source possibly lacks the blobs */
  get(source: string, top: TagTarget, platforms: ImageRequest['platforms']): readonly ResolvedImage[] | undefined {
    return this.#byDigest.get(keyOf(source, top, platforms));
  }

  set(source: string, top: TagTarget, platforms: ImageRequest['platforms'], images: readonly ResolvedImage[]): void {
    this.#byDigest.add(keyOf(source, top, platforms), images);
  }

  /** @param target explicit layers; only the same object is a hit */
  getLayers(target: ImageTarget): readonly ResolvedImage[] | undefined {
    return this.#byLayers.get(target);
  }

  setLayers(target: ImageTarget, images: readonly ResolvedImage[]): void {
    this.#byLayers.set(target, images);
  }
}

/** Everything that decides which images a document resolves to. No part contains a line break. */
function keyOf(source: string, top: TagTarget, platforms: ImageRequest['platforms']): string {
  const { digest, mediaType, size, warnings = [], entries = [] } = top;
  const chosen = Array.isArray(platforms) ? JSON.stringify(platforms) : platforms;
  const odd = warnings.length + entries.length === 0 ? '' : JSON.stringify([warnings, entries]);
  return `${source}\n${digest}\n${mediaType}\n${size}\n${chosen}\n${odd}`;
}

function layersOf(images: readonly ResolvedImage[]): number {
  return images.reduce((sum, { layers }) => sum + layers.length + 1, 0);
}
