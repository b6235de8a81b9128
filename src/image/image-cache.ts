import { LruCache } from '../lru-cache.ts';
import type { TagTarget } from '../source/blob-source.ts';
import type { ImageRequest, ImageTarget, ResolvedImage } from './request.ts';

/** Maximum size of the cache in bytes: enough for some thousand images. */
const MAX_BYTES = 32 * 1024 * 1024;
/** What a layer, and an image without its layers and documents, takes in memory. In bytes, measured. */
const LAYER_BYTES = 512;
const IMAGE_BYTES = 1024;

/**
 * A cache of resolved images, by digest and by list of layers. An entry never becomes stale, because the bytes of a
 * digest never change. The document cache saves only the request; this one also saves parsing and checking the
 * documents.
 *
 * A hit returns the same array each time, so callers can use the array as the key of a WeakMap.
 */
export class ImageCache {
  readonly #byDigest = new LruCache<readonly ResolvedImage[]>(MAX_BYTES, bytesOf);
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

/** Images of one index share its bytes. */
function bytesOf(images: readonly ResolvedImage[]): number {
  const documents = new Map(images.flatMap((image) => [...image.documents]));
  const layers = images.reduce((sum, { layers }) => sum + layers.length, 0);
  const bytes = [...documents.values()].reduce((sum, { length }) => sum + length, 0);
  return bytes + layers * LAYER_BYTES + images.length * IMAGE_BYTES;
}
