import { throwIfAborted, UnpackError } from '../errors.ts';
import type { Descriptor, Layer } from '../oci/descriptor.ts';
import { type BlobDigest, shortDigest } from '../oci/digest.ts';
import { CONFIG_LIMIT, type ImageConfig, parseConfig } from '../oci/image-config.ts';
import { DOCUMENT_LIMIT, type ImageDocument, type ImageManifest, parseDocument } from '../oci/manifest.ts';
import { layerCompression } from '../oci/media-type.ts';
import { formatPlatform, hostPlatform, type Platform, runsOn } from '../oci/platform.ts';
import type { BlobSource } from '../source/blob-source.ts';
import type { DocumentCache } from '../source/document-cache.ts';
import { readBlob } from '../source/fetch.ts';
import { type IndexEntry, indexEntries } from './index-entries.ts';
import type { KnownImages } from './known-images.ts';
import type { ImageRequest, ResolvedImage } from './request.ts';

/**
 * Manifests and indexes that one request may read. A real image has one index and a manifest for each of some ten
 * platforms; without a bound, indexes that list indexes could lead to any number of requests.
 */
const MOST_DOCUMENTS = 256;

/** A document as a descriptor, a tag or a job names it. */
type DocumentRef = { readonly digest: BlobDigest } & Partial<Pick<Descriptor, 'mediaType' | 'size'>>;

/** Reads a verified manifest or index and counts it. */
type ReadDocument = (ref: DocumentRef) => Promise<ImageDocument>;

export interface ResolveOptions {
  readonly signal?: AbortSignal | undefined;
  /** Manifests and configs that were verified before. */
  readonly cache?: DocumentCache | undefined;
  /** What was resolved before. */
  readonly known?: KnownImages | undefined;
}

/**
 * The images that a request means, each with its layers, bottom-most first: reads and verifies tag, index, manifest and
 * config. Layers are not read, but what is known to fail later fails here.
 *
 * From an index the exact platform is taken, else the best older variant that runs on it (`runsOn`); entries that do
 * not name their platform are read to learn it. A manifest that is named directly is taken as it is unless platforms
 * are asked for.
 * @throws UnpackError IMAGE_NOT_FOUND (tag, index or manifest missing), BLOB_NOT_FOUND (config missing),
 *   PLATFORM_NOT_FOUND (lists those there are), MANIFEST_INVALID, UNSUPPORTED_MEDIA_TYPE, INVALID_JOB (no such tag can
 *   be), LIMIT_EXCEEDED (a document is too long, or they are too many), and as readBlob
 */
export async function resolveImages(
  source: BlobSource,
  request: ImageRequest,
  options: ResolveOptions = {},
): Promise<readonly ResolvedImage[]> {
  const { signal, known } = options;
  throwIfAborted(signal);
  const { target, platforms } = request;
  if (target.kind === 'layers') {
    const make = () => [{ layers: checkedLayers(target.layers, 'the job') }];
    return known?.ofLayers(target, make) ?? make();
  }

  const top: DocumentRef = target.kind === 'tag' ? await source.resolveTag(target.tag, signal) : target;
  const before = known?.get(source.name, top, platforms);
  if (before !== undefined) return before;
  const images = await imagesAt(source, top, platforms, options);
  known?.set(source.name, top, platforms, images);
  return images;
}

/** What `resolveImages` would return, if that is known without asking the source: not for a tag, which may have moved. */
export function recallImages(
  source: BlobSource,
  { target, platforms }: ImageRequest,
  known: KnownImages,
): readonly ResolvedImage[] | undefined {
  if (target.kind === 'tag') return undefined;
  return target.kind === 'layers' ? known.layersBefore(target) : known.get(source.name, target, platforms);
}

async function imagesAt(
  source: BlobSource,
  top: DocumentRef,
  platforms: ImageRequest['platforms'],
  options: ResolveOptions,
): Promise<ResolvedImage[]> {
  const readDocument = documentReader(source, options);
  const document = await readDocument(top);
  const load = (digest: BlobDigest, manifest: ImageManifest) => loadImage(source, digest, manifest, options);
  if (document.kind === 'manifest') {
    const image = await load(top.digest, document);
    if (Array.isArray(platforms)) requirePlatforms(platforms, image, source);
    return [image];
  }

  const entries = (await indexEntries(document, readDocument)).map((entry) => new Candidate(entry, readDocument, load));
  const where = `the index ${shortDigest(top.digest)} of ${source.name}`;
  if (platforms === 'all') return everyImage(entries, where);
  return chosenImages(entries, platforms?.length ? platforms : [hostPlatform()], where);
}

/** One entry of an index that may be an image; read when it is wanted, once. */
class Candidate {
  readonly named: Platform | undefined;
  readonly #entry: IndexEntry;
  readonly #readDocument: ReadDocument;
  readonly #load: (digest: BlobDigest, manifest: ImageManifest) => Promise<ResolvedImage>;
  #image: Promise<ResolvedImage> | undefined;

  constructor(
    entry: IndexEntry,
    readDocument: ReadDocument,
    load: (digest: BlobDigest, manifest: ImageManifest) => Promise<ResolvedImage>,
  ) {
    this.named = entry.platform;
    this.#entry = entry;
    this.#readDocument = readDocument;
    this.#load = load;
  }

  get digest(): BlobDigest {
    return this.#entry.descriptor.digest;
  }

  image(): Promise<ResolvedImage> {
    this.#image ??= this.#read();
    return this.#image;
  }

  /** `undefined` for an artifact that the index lists without saying so: it is nobody's platform. */
  async imageIfAny(): Promise<ResolvedImage | undefined> {
    try {
      return await this.image();
    } catch (error) {
      const isArtifact = error instanceof UnpackError && error.code === 'UNSUPPORTED_MEDIA_TYPE';
      if (isArtifact && this.named === undefined) return undefined;
      throw error;
    }
  }

  async platform(): Promise<Platform | undefined> {
    return this.named ?? (await this.imageIfAny())?.platform;
  }

  async #read(): Promise<ResolvedImage> {
    const { descriptor } = this.#entry;
    const document = await this.#readDocument(descriptor);
    if (document.kind === 'index') throw new UnpackError('MANIFEST_INVALID', `${descriptor.digest} is an index`);
    const image = await this.#load(descriptor.digest, document);
    return this.named === undefined ? image : { ...image, platform: this.named };
  }
}

async function everyImage(candidates: readonly Candidate[], where: string): Promise<ResolvedImage[]> {
  const images: ResolvedImage[] = [];
  for (const candidate of candidates) {
    const image = await candidate.imageIfAny();
    if (image !== undefined) images.push(image);
  }
  if (images.length === 0) throw new UnpackError('PLATFORM_NOT_FOUND', `${where} lists no image for any platform`);
  return images;
}

async function chosenImages(
  candidates: readonly Candidate[],
  platforms: readonly Platform[],
  where: string,
): Promise<ResolvedImage[]> {
  const chosen = new Map<BlobDigest, Candidate>(); // two platforms may fall back to one image
  for (const platform of platforms) {
    const found =
      (await best(platform, candidates, async ({ named }) => named)) ??
      (await best(platform, candidates, (candidate) => candidate.platform()));
    if (found === undefined) throw await platformMissing(platform, candidates, where);
    chosen.set(found.digest, found);
  }
  const images: ResolvedImage[] = [];
  for (const candidate of chosen.values()) images.push(await candidate.image());
  return images;
}

async function best(
  platform: Platform,
  candidates: readonly Candidate[],
  platformOf: (candidate: Candidate) => Promise<Platform | undefined>,
): Promise<Candidate | undefined> {
  const byPlatform = new Map<string, Candidate>();
  for (const candidate of candidates) {
    const own = await platformOf(candidate);
    const name = own === undefined ? undefined : formatPlatform(own);
    if (name !== undefined && !byPlatform.has(name)) byPlatform.set(name, candidate);
  }
  for (const suitable of runsOn(platform)) {
    const found = byPlatform.get(formatPlatform(suitable));
    if (found !== undefined) return found;
  }
  return undefined;
}

async function platformMissing(
  platform: Platform,
  candidates: readonly Candidate[],
  where: string,
): Promise<UnpackError> {
  const there = new Set<string>();
  for (const candidate of candidates) {
    const own = await candidate.platform();
    if (own !== undefined) there.add(formatPlatform(own));
  }
  const list = there.size === 0 ? 'it has no images that name a platform' : `it has ${[...there].join(', ')}`;
  return new UnpackError('PLATFORM_NOT_FOUND', `${where} has no image for ${formatPlatform(platform)}; ${list}`);
}

function requirePlatforms(platforms: readonly Platform[], image: ResolvedImage, source: BlobSource): void {
  const own = image.platform === undefined ? undefined : formatPlatform(image.platform);
  for (const platform of platforms) {
    if (runsOn(platform).some((suitable) => formatPlatform(suitable) === own)) continue;
    throw new UnpackError(
      'PLATFORM_NOT_FOUND',
      `${source.name} has one image for ${own ?? 'a platform that its config does not name'}, not for ${formatPlatform(platform)}`,
      { details: image.manifestDigest === undefined ? {} : { digest: image.manifestDigest } },
    );
  }
}

function documentReader(source: BlobSource, options: ResolveOptions): ReadDocument {
  let count = 0;
  return async ({ digest, size, mediaType }) => {
    count += 1;
    if (count > MOST_DOCUMENTS) {
      throw new UnpackError('LIMIT_EXCEEDED', `the image leads to more than ${MOST_DOCUMENTS} manifests and indexes`);
    }
    const what = `document ${shortDigest(digest)} of ${source.name}`;
    const wanted = size === undefined ? digest : { digest, size };
    let bytes: Buffer;
    try {
      bytes = await readBlob(source, wanted, { ...options, limit: DOCUMENT_LIMIT });
    } catch (error) {
      if (!(error instanceof UnpackError) || error.code !== 'BLOB_NOT_FOUND') throw error;
      throw new UnpackError('IMAGE_NOT_FOUND', error.message, { cause: error, details: error.details });
    }
    try {
      return parseDocument(bytes, what, mediaType);
    } catch (error) {
      throw error instanceof UnpackError ? error.with({ digest }) : error;
    }
  };
}

async function loadImage(
  source: BlobSource,
  digest: BlobDigest,
  manifest: ImageManifest,
  options: ResolveOptions,
): Promise<ResolvedImage> {
  const what = `manifest ${shortDigest(digest)} of ${source.name}`;
  // before the config is read: what can't be unpacked needs no further request
  manifest.layers.forEach((layer, index) => {
    checkLayer(layer, index, manifest.layers.length, what);
  });
  const bytes = await readBlob(source, manifest.config, { ...options, limit: CONFIG_LIMIT });
  const config = parseConfig(bytes, `config ${shortDigest(manifest.config.digest)} of ${source.name}`);
  return {
    ...(config.platform === undefined ? {} : { platform: config.platform }),
    manifestDigest: digest,
    configDigest: manifest.config.digest,
    layers: layersOf(manifest, config, what, digest),
  };
}

function layersOf(manifest: ImageManifest, config: ImageConfig, what: string, digest: BlobDigest): Layer[] {
  const { layers } = manifest;
  const details = { details: { digest, layerCount: layers.length } };
  if (layers.length !== config.diffIds.length) {
    const counts = `${layers.length} layers and its config ${config.diffIds.length} diff_ids`;
    throw new UnpackError('MANIFEST_INVALID', `${what} has ${counts}; there must be one for each`, details);
  }
  if (layers.length === 0)
    throw new UnpackError('MANIFEST_INVALID', `${what} has no layers: nothing to unpack`, details);
  return layers.flatMap((blob, index) => {
    const diff = config.diffIds[index];
    return diff === undefined ? [] : [{ blob, diff: { digest: diff } }];
  });
}

function checkedLayers(layers: readonly Layer[], what: string): readonly Layer[] {
  if (layers.length === 0) throw new UnpackError('INVALID_JOB', 'the job names no layers');
  layers.forEach(({ blob }, index) => {
    checkLayer(blob, index, layers.length, what);
  });
  return layers;
}

function checkLayer(blob: Descriptor, layerIndex: number, layerCount: number, what: string): void {
  try {
    layerCompression(blob.mediaType);
  } catch (error) {
    if (!(error instanceof UnpackError)) throw error;
    throw error.with(
      { layerIndex, layerCount, digest: blob.digest },
      `${what}, layer ${layerIndex + 1} of ${layerCount}: `,
    );
  }
}
