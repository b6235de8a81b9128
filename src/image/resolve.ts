import { throwIfAborted, UnpackError } from '../errors.ts';
import { shortDigest } from '../oci/digest.ts';
import { describePlatform, formatPlatform, hostPlatform, type Platform, suitability } from '../oci/platform.ts';
import type { BlobSource, TagTarget } from '../source/blob-source.ts';
import { chooseImages, everyImage, type Listing } from './choose.ts';
import { Documents, imageOfLayers, type ReadOptions } from './documents.ts';
import type { ImageCache } from './image-cache.ts';
import type { ImageRequest, ResolvedImage } from './request.ts';

export interface ResolveOptions extends ReadOptions {
  /** The cache of resolved images. */
  readonly imageCache?: ImageCache | undefined;
}

/**
 * Resolves a request to images with their layers, bottom-most first. It reads and verifies tag, index, manifest and config.
 * Layers are not read, but a layer that cannot be unpacked fails here.
 *
 * `chooseImages` chooses by platform from an index, or from images that share a tag. If the request has the digest of a
 * manifest, the image is used on any platform, unless the request lists platforms.
 * @throws UnpackError IMAGE_NOT_FOUND (tag, index or manifest missing), BLOB_NOT_FOUND (config missing),
 *   PLATFORM_NOT_FOUND, MANIFEST_INVALID, UNSUPPORTED_MEDIA_TYPE, INVALID_JOB (malformed tag), LIMIT_EXCEEDED (a document
 *   is too long, or there are too many), and as readBlob
 */
export async function resolveImages(
  source: BlobSource,
  request: ImageRequest,
  options: ResolveOptions = {},
): Promise<readonly ResolvedImage[]> {
  const { signal, imageCache } = options;
  throwIfAborted(signal);
  const { target, platforms } = request;
  if (target.kind === 'layers') {
    const images = imageCache?.getLayers(target) ?? [imageOfLayers(target.layers)];
    imageCache?.setLayers(target, images);
    return images;
  }

  const top: TagTarget = target.kind === 'tag' ? await source.resolveTag(target.tag, signal) : target;
  const cached = imageCache?.get(source.name, top, platforms);
  if (cached !== undefined) return cached;
  const images = await imagesAt(top, request, new Documents(source, options));
  imageCache?.set(source.name, top, platforms, images);
  return images;
}

/** The images of a request from the cache alone. `undefined` for a tag, because tags can move. */
export function cachedImages(
  source: BlobSource,
  { target, platforms }: ImageRequest,
  imageCache: ImageCache,
): readonly ResolvedImage[] | undefined {
  if (target.kind === 'tag') return undefined;
  return target.kind === 'layers' ? imageCache.getLayers(target) : imageCache.get(source.name, target, platforms);
}

async function imagesAt(
  top: TagTarget,
  { target, platforms }: ImageRequest,
  documents: Documents,
): Promise<ResolvedImage[]> {
  const { name } = documents.source;
  const warnings = top.warnings ?? [];
  const choose = (listing: Listing) =>
    platforms === 'all'
      ? everyImage(listing, documents)
      : chooseImages(listing, platforms?.length ? platforms : [hostPlatform()], documents);
  if (top.entries !== undefined) {
    const tag = target.kind === 'tag' ? JSON.stringify(target.tag) : '';
    return choose({ entries: top.entries, where: `the tag ${tag} of ${name}`, warnings, unique: true });
  }
  const document = await documents.read(top);
  if (document.kind === 'index') {
    const where = `the index ${shortDigest(top.digest)} of ${name}`;
    const images = await choose({
      entries: document.manifests,
      where,
      warnings: [...warnings, ...document.warnings],
    });
    return images.map((image) => ({
      ...image,
      indexDigest: top.digest,
      documents: new Map([...image.documents, [top.digest, document.bytes]]),
    }));
  }
  const image = await documents.image(top.digest, document);
  if (Array.isArray(platforms)) requirePlatforms(platforms, image, name);
  return [{ ...image, warnings: [...warnings, ...image.warnings] }];
}

function requirePlatforms(platforms: readonly Platform[], image: ResolvedImage, source: string): void {
  for (const platform of platforms) {
    if (image.platform !== undefined && suitability(platform)(image.platform) !== undefined) continue;
    const own =
      image.platform === undefined ? 'a platform that its config does not name' : describePlatform(image.platform);
    throw new UnpackError(
      'PLATFORM_NOT_FOUND',
      `${source} has one image for ${own}, not for ${formatPlatform(platform)}`,
      { details: image.manifestDigest === undefined ? {} : { digest: image.manifestDigest } },
    );
  }
}
