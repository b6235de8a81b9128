import { UnpackError } from '../errors.ts';
import { type Descriptor, embeddedContent } from '../oci/descriptor.ts';
import { type BlobDigest, shortDigest } from '../oci/digest.ts';
import { CONFIG_LIMIT, parseConfig } from '../oci/image-config.ts';
import { type IndexEntry, readEntries } from '../oci/image-index.ts';
import { fieldNames, JsonFields, JsonReading, readJson } from '../oci/json-fields.ts';
import { documentKind, OCI_INDEX, OCI_MANIFEST } from '../oci/media-type.ts';
import { formatPlatform, mostSuitable, type Platform, suitability } from '../oci/platform.ts';
import { listed } from '../oci/similar-names.ts';
import { type LocalBlob, memoryBlob, readWhole } from './local-blob.ts';

/** Maximum number of manifests and indexes of one image. Real images have far fewer. */
const MAX_DOCUMENTS = 10_000;
/** Maximum depth of indexes within indexes. Cycles are impossible, because indexes refer to digests. */
const MAX_DEPTH = 8;

/** Finds a blob by its digest. `undefined` if there is none. */
export type FindBlob = (digest: BlobDigest) => Promise<LocalBlob | undefined>;

export interface ImageContents {
  /** Each blob once, before every document that refers to it. The image's own document is the last. */
  readonly blobs: readonly Descriptor[];
  /** Descriptions of the listed images and blobs that are not copied. */
  readonly leftOut: readonly string[];
  /** The manifests and indexes among `blobs`. */
  readonly documents: ReadonlySet<BlobDigest>;
  /** Small blobs from the `data` of their descriptors. They are possibly not stored elsewhere. */
  readonly embedded: ReadonlyMap<BlobDigest, LocalBlob>;
  /** The media type of the image's own document. */
  readonly mediaType: string;
}

/** A reference in a document. Missing or wrong labels are allowed, because labels are only copied. */
interface Reference {
  readonly descriptor: Descriptor | undefined;
  /** For messages: the platform, or the digest. */
  readonly label: string;
  readonly platform: Platform | undefined;
  /** The digest of another entry of the same index, if this entry is an attestation for it. */
  readonly about: string | undefined;
  /** A non-distributable layer, which the publisher distributes. */
  readonly foreign: boolean;
}

/** A reference with everything below it. */
interface Part {
  readonly reference: Reference;
  readonly blobs: readonly Descriptor[];
  readonly missing: readonly string[];
  readonly platforms: readonly Platform[];
}

/**
 * Lists the blobs of an image, for push. Without `platforms`, the list has everything below the image, with artifacts
 * and attestations. With `platforms`, it has only the entries of each index for these platforms, with their
 * attestations. The index itself is not changed, so the bucket lacks some of its entries (a "sparse" copy in
 * containers/image).
 * @throws UnpackError BLOB_NOT_FOUND with the missing blobs and what to do, PLATFORM_NOT_FOUND, MANIFEST_INVALID, LIMIT_EXCEEDED
 */
export async function imageContents(
  image: Descriptor,
  find: FindBlob,
  where: string,
  platforms: readonly Platform[] = [],
): Promise<ImageContents> {
  const reader = new ContentsReader(find, where);
  const top = await reader.document(image, 1);
  const { documents, embedded } = reader;
  if (top.kind === 'manifest') requirePlatforms(platforms, image.platform ?? top.platforms[0], where);
  if (top.kind === 'manifest' || platforms.length === 0) {
    if (top.missing.length > 0) throw incomplete(top, where);
    return { blobs: once(top.blobs), leftOut: top.leftOut, mediaType: top.mediaType, documents, embedded };
  }
  const chosen = choose(top, platforms, where);
  const blobs: Descriptor[] = [];
  const leftOut: string[] = [...top.leftOut];
  for (const part of top.parts) {
    if (!chosen.has(part)) leftOut.push(part.reference.label);
    else if (part.missing.length === 0) blobs.push(...part.blobs);
    else throw incomplete({ ...top, missing: part.missing }, where);
  }
  return { blobs: once([...blobs, top.descriptor]), leftOut, mediaType: top.mediaType, documents, embedded };
}

/** @param own the platform of the image */
function requirePlatforms(platforms: readonly Platform[], own: Platform | undefined, where: string): void {
  for (const platform of platforms) {
    if (own !== undefined && suitability(platform)(own) !== undefined) continue;
    const has = own === undefined ? 'an unknown platform' : formatPlatform(own);
    throw new UnpackError(
      'PLATFORM_NOT_FOUND',
      `${where}: the image is for ${has}, not for ${formatPlatform(platform)}`,
    );
  }
}

/** The entries for these platforms, and those of their attestations that the source holds completely. */
function choose(top: Document, platforms: readonly Platform[], where: string): Set<Part> {
  const chosen = new Set<Part>();
  for (const platform of platforms) {
    const best = mostSuitable(top.parts, platform, (part) => part.platforms);
    if (best.length === 0) {
      const names = [...new Set(top.parts.flatMap((part) => part.platforms.map(formatPlatform)))];
      const has = names.length === 0 ? 'none of its images has a platform' : `it has ${listed(names)}`;
      throw new UnpackError(
        'PLATFORM_NOT_FOUND',
        `${where}: the index ${shortDigest(top.descriptor.digest)} has no image for ${formatPlatform(platform)}; ${has}`,
      );
    }
    for (const part of best) chosen.add(part);
  }
  const digests = new Set([...chosen].map(({ reference }) => reference.descriptor?.digest as string | undefined));
  for (const part of top.parts) {
    const { about } = part.reference;
    if (about !== undefined && digests.has(about) && part.missing.length === 0) chosen.add(part);
  }
  return chosen;
}

interface Document {
  readonly kind: 'index' | 'manifest';
  readonly descriptor: Descriptor;
  readonly mediaType: string;
  readonly parts: readonly Part[];
  readonly blobs: readonly Descriptor[];
  readonly missing: readonly string[];
  readonly leftOut: readonly string[];
  readonly platforms: readonly Platform[];
}

/** Reads the documents of one image from the top down. */
class ContentsReader {
  readonly #find: FindBlob;
  readonly #where: string;
  readonly documents = new Set<BlobDigest>();
  readonly embedded = new Map<BlobDigest, LocalBlob>();
  #count = 0;

  constructor(find: FindBlob, where: string) {
    this.#find = find;
    this.#where = where;
  }

  /** Reads a manifest or index with everything below it. @throws UnpackError BLOB_NOT_FOUND, MANIFEST_INVALID, LIMIT_EXCEEDED */
  async document(descriptor: Descriptor, depth: number): Promise<Document> {
    this.#count += 1;
    if (this.#count > MAX_DOCUMENTS || depth > MAX_DEPTH) {
      const why =
        depth > MAX_DEPTH ? `indexes nest more than ${MAX_DEPTH} deep` : `it has more than ${MAX_DOCUMENTS} manifests`;
      throw new UnpackError('LIMIT_EXCEEDED', `${this.#where}: ${why}`);
    }
    const what = `${this.#where}: manifest ${shortDigest(descriptor.digest)}`;
    const blob = await this.#find(descriptor.digest);
    if (blob === undefined) {
      throw new UnpackError('BLOB_NOT_FOUND', `${this.#where} has no manifest ${descriptor.digest}, but lists it`, {
        details: { digest: descriptor.digest },
      });
    }
    const reading = new JsonReading(what);
    const fields = new JsonFields(readJson(await readWhole(blob, what), reading), DOCUMENT, reading);
    const kind = fields.has('manifests') ? 'index' : 'manifest';
    if (!LISTS.some((name) => fields.has(name))) throw notImage(what);
    this.documents.add(descriptor.digest);
    const parts: Part[] = [];
    for (const entry of readEntries(kind === 'index' ? fields.list('manifests') : blobsOf(fields), what)) {
      const reference = referenceOf(entry);
      parts.push(kind === 'index' ? await this.#entry(reference, depth) : await this.#blob(reference));
    }
    const platform = kind === 'manifest' ? await this.#platformOf(parts[0]?.reference.descriptor) : undefined;
    return {
      kind,
      descriptor,
      mediaType: fields.label('mediaType') || descriptor.mediaType || (kind === 'index' ? OCI_INDEX : OCI_MANIFEST),
      parts,
      blobs: [...parts.flatMap(({ blobs }) => blobs), descriptor],
      missing: parts.flatMap(({ missing }) => missing),
      leftOut: parts.flatMap(({ reference, blobs }) =>
        reference.foreign && blobs.length === 0 ? [reference.label] : [],
      ),
      platforms: platform === undefined ? parts.flatMap(({ platforms }) => platforms) : [platform],
    };
  }

  async #entry(reference: Reference, depth: number): Promise<Part> {
    const { descriptor, platform, label } = reference;
    const named = platform === undefined ? [] : [platform];
    if (descriptor === undefined || (await this.#find(descriptor.digest)) === undefined) {
      return { reference, blobs: [], missing: [label], platforms: named };
    }
    const below = await this.#below(descriptor, depth + 1);
    if (below === undefined) return { reference, blobs: [descriptor], missing: [], platforms: named };
    const platforms = platform !== undefined || reference.about !== undefined ? named : below.platforms;
    const names = platforms.length === 0 ? label : platforms.map(formatPlatform).join(', ');
    return {
      reference: { ...reference, label: names },
      blobs: below.blobs,
      missing: below.missing.length === 0 ? [] : [`${names} (${listed(below.missing)})`],
      platforms,
    };
  }

  /** `undefined` for an entry that is not a document: some indexes list other blobs. */
  async #below(descriptor: Descriptor, depth: number): Promise<Document | undefined> {
    try {
      return await this.document(descriptor, depth);
    } catch (error) {
      const isBlob = documentKind(descriptor.mediaType) === undefined;
      if (isBlob && error instanceof UnpackError && error.code !== 'BLOB_NOT_FOUND') return undefined;
      throw error;
    }
  }

  async #blob(reference: Reference): Promise<Part> {
    const { descriptor, foreign, label } = reference;
    const bytes = descriptor === undefined ? undefined : embeddedContent(descriptor);
    if (bytes !== undefined && descriptor !== undefined) this.embedded.set(descriptor.digest, memoryBlob(bytes));
    const there =
      bytes !== undefined || (descriptor !== undefined && (await this.#find(descriptor.digest)) !== undefined);
    if (there && descriptor !== undefined) return { reference, blobs: [descriptor], missing: [], platforms: [] };
    return { reference, blobs: [], missing: foreign ? [] : [label], platforms: [] };
  }

  /** The platform in the config of an image. `undefined` for artifacts. */
  async #platformOf(config: Descriptor | undefined): Promise<Platform | undefined> {
    const blob = config === undefined ? undefined : await this.#find(config.digest);
    if (blob === undefined || blob.size > CONFIG_LIMIT) return undefined;
    try {
      const { platform } = parseConfig(await blob.read(0, blob.size), this.#where);
      return platform?.os === 'unknown' ? undefined : platform;
    } catch {
      return undefined; // the config of an artifact
    }
  }
}

/** The failure for missing blobs. For an index it lists the platforms that are complete. */
function incomplete({ kind, parts, missing, descriptor }: Document, where: string): UnpackError {
  const details = { details: { digest: descriptor.digest } };
  if (kind === 'manifest') {
    const what = missing.length === 1 ? 'a blob is missing' : `${missing.length} blobs are missing`;
    return new UnpackError('BLOB_NOT_FOUND', `${where}: ${what} (${listed(missing)}); copy the image again`, details);
  }
  const whole = [
    ...new Set(parts.filter((part) => part.missing.length === 0).flatMap((part) => part.platforms.map(formatPlatform))),
  ];
  const advice =
    whole.length === 0
      ? 'no platform is complete; copy the image again'
      : `push the complete platforms with --platform ${whole.join(' ')} (the index is not changed), or copy the image again`;
  return new UnpackError(
    'BLOB_NOT_FOUND',
    `${where}: the index ${shortDigest(descriptor.digest)} lists missing images: ${listed(missing)}; ${advice}`,
    details,
  );
}

function once(descriptors: readonly Descriptor[]): Descriptor[] {
  return [...new Map(descriptors.map((one) => [one.digest, one])).values()];
}

const FOREIGN = /nondistributable|rootfs\.foreign/;

const LISTS = ['manifests', 'config', 'layers', 'blobs'] as const;
const DOCUMENT = fieldNames('mediaType', ...LISTS);

/** The references of a manifest. Older artifact manifests have `blobs` instead of `layers`. */
function blobsOf(fields: JsonFields): unknown[] {
  const config = fields.get('config');
  return [...(config === undefined ? [] : [config]), ...fields.list('layers'), ...fields.list('blobs')];
}

function referenceOf({ labels, descriptor }: IndexEntry): Reference {
  const about = labels.annotations?.['vnd.docker.reference.digest'];
  const platform = labels.platform?.os === 'unknown' ? undefined : labels.platform;
  const name = descriptor === undefined ? 'a malformed entry' : shortDigest(descriptor.digest);
  const what = about === undefined ? name : `an attestation (${name})`;
  return {
    descriptor,
    label: platform === undefined ? what : `${formatPlatform(platform)} (${name})`,
    platform,
    about,
    foreign: FOREIGN.test(labels.mediaType),
  };
}

function notImage(what: string): UnpackError {
  return new UnpackError('MANIFEST_INVALID', `${what} is neither a manifest nor an index`);
}
