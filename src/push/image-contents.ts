import { UnpackError } from '../errors.ts';
import { type Descriptor, embeddedContent } from '../oci/descriptor.ts';
import { type BlobDigest, shortDigest } from '../oci/digest.ts';
import { CONFIG_LIMIT, parseConfig } from '../oci/image-config.ts';
import { type IndexEntry, readEntries } from '../oci/image-index.ts';
import { fieldNames, JsonFields, JsonReading, readJson } from '../oci/json-fields.ts';
import { documentKind, OCI_INDEX, OCI_MANIFEST } from '../oci/media-type.ts';
import { formatPlatform, mostSuitable, type Platform, suitability } from '../oci/platform.ts';
import { listed } from '../oci/similar-names.ts';
import { madeBlob, type StoredBlob, whole } from './stored-blob.ts';

/** Manifests and indexes of one image; far more than any has. */
const MOST_DOCUMENTS = 10_000;
/** Indexes within indexes. Digests make cycles impossible. */
const DEEPEST = 8;

/** Finds a blob by its digest; `undefined` where it is not there. */
export type FindBlob = (digest: BlobDigest) => Promise<StoredBlob | undefined>;

export interface ImageContents {
  /** Each once, what is named before what names it; the image's own document last. */
  readonly blobs: readonly Descriptor[];
  /** What the image's indexes list and what is not copied, in words. */
  readonly leftOut: readonly string[];
  /** Those that are manifests and indexes. */
  readonly documents: ReadonlySet<BlobDigest>;
  /** Small blobs that stand in their descriptors (`data`), and need not lie anywhere else. */
  readonly embedded: ReadonlyMap<BlobDigest, StoredBlob>;
  /** Of the image's own document. */
  readonly mediaType: string;
}

/** What a document names, as it names it: labels may be missing or wrong, because they are copied and not used. */
interface Reference {
  readonly descriptor: Descriptor | undefined;
  /** For messages: the platform, or what else it is. */
  readonly label: string;
  readonly platform: Platform | undefined;
  /** The entry is about another one of the same index: an attestation. */
  readonly about: string | undefined;
  /** Its bytes come from its publisher. */
  readonly foreign: boolean;
}

/** A reference with all that it leads to. */
interface Part {
  readonly reference: Reference;
  readonly blobs: readonly Descriptor[];
  readonly missing: readonly string[];
  readonly platforms: readonly Platform[];
}

/**
 * Everything that makes up an image. Without `platforms` that is all that it leads to, artifacts and attestations
 * included. With them it is what they need: of each index the entries for them, and what is attested about these; the
 * index itself stays as it is, with entries that lead nowhere (containers/image calls that a sparse copy).
 * @throws UnpackError BLOB_NOT_FOUND that names what is not there and what to do, PLATFORM_NOT_FOUND, MANIFEST_INVALID,
 *   LIMIT_EXCEEDED
 */
export async function imageContents(
  image: Descriptor,
  find: FindBlob,
  where: string,
  platforms?: readonly Platform[],
): Promise<ImageContents> {
  const gathering = new Gathering(find, where);
  const top = await gathering.document(image, 1);
  const { documents, embedded } = gathering;
  if (platforms === undefined || platforms.length === 0) {
    if (top.missing.length > 0) throw incomplete(top, where);
    return { blobs: once(top.blobs), leftOut: top.leftOut, mediaType: top.mediaType, documents, embedded };
  }
  if (top.kind === 'manifest') {
    const own = image.platform ?? top.platforms[0];
    for (const platform of platforms) {
      if (own !== undefined && suitability(platform)(own) !== undefined) continue;
      const has = own === undefined ? 'a platform that its config does not name' : formatPlatform(own);
      throw new UnpackError(
        'PLATFORM_NOT_FOUND',
        `${where} has one image for ${has}, not for ${formatPlatform(platform)}`,
      );
    }
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

/** The entries for these platforms, and what the index lists about them and is there. */
function choose(top: Document, platforms: readonly Platform[], where: string): Set<Part> {
  const chosen = new Set<Part>();
  for (const platform of platforms) {
    const best = mostSuitable(top.parts, platform, (part) => part.platforms);
    if (best.length === 0) {
      const names = [...new Set(top.parts.flatMap((part) => part.platforms.map(formatPlatform)))];
      const has = names.length === 0 ? 'it has no images that name a platform' : `it has ${listed(names)}`;
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

class Gathering {
  readonly #find: FindBlob;
  readonly #where: string;
  readonly documents = new Set<BlobDigest>();
  readonly embedded = new Map<BlobDigest, StoredBlob>();
  #count = 0;

  constructor(find: FindBlob, where: string) {
    this.#find = find;
    this.#where = where;
  }

  /** A manifest or index that is there. @throws UnpackError BLOB_NOT_FOUND, MANIFEST_INVALID, LIMIT_EXCEEDED */
  async document(descriptor: Descriptor, depth: number): Promise<Document> {
    this.#count += 1;
    if (this.#count > MOST_DOCUMENTS || depth > DEEPEST) {
      const why =
        depth > DEEPEST ? `indexes nest more than ${DEEPEST} deep` : `it has more than ${MOST_DOCUMENTS} manifests`;
      throw new UnpackError('LIMIT_EXCEEDED', `${this.#where}: ${why}`);
    }
    const what = `${this.#where}: manifest ${shortDigest(descriptor.digest)}`;
    const blob = await this.#find(descriptor.digest);
    if (blob === undefined) {
      throw new UnpackError('BLOB_NOT_FOUND', `${this.#where} lacks the manifest ${descriptor.digest} that it lists`, {
        details: { digest: descriptor.digest },
      });
    }
    const fields = new JsonFields(
      readJson(await whole(blob, what), new JsonReading(what)),
      DOCUMENT,
      new JsonReading(what),
    );
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
    const told = platform === undefined ? [] : [platform];
    if (descriptor === undefined || (await this.#find(descriptor.digest)) === undefined) {
      return { reference, blobs: [], missing: [label], platforms: told };
    }
    const below = await this.#below(descriptor, depth + 1);
    if (below === undefined) return { reference, blobs: [descriptor], missing: [], platforms: told };
    const platforms = platform !== undefined || reference.about !== undefined ? told : below.platforms;
    const names = platforms.length === 0 ? label : platforms.map(formatPlatform).join(', ');
    return {
      reference: { ...reference, label: names },
      blobs: below.blobs,
      missing: below.missing.length === 0 ? [] : [`${names} (${listed(below.missing)})`],
      platforms,
    };
  }

  /** `undefined` for what an index lists and is no document: some list any blob. */
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
    if (bytes !== undefined && descriptor !== undefined) this.embedded.set(descriptor.digest, madeBlob(bytes));
    const there =
      bytes !== undefined || (descriptor !== undefined && (await this.#find(descriptor.digest)) !== undefined);
    if (there && descriptor !== undefined) return { reference, blobs: [descriptor], missing: [], platforms: [] };
    return { reference, blobs: [], missing: foreign ? [] : [label], platforms: [] };
  }

  /** As the config has it, where that is an image's. */
  async #platformOf(config: Descriptor | undefined): Promise<Platform | undefined> {
    const blob = config === undefined ? undefined : await this.#find(config.digest);
    if (blob === undefined || blob.size > CONFIG_LIMIT) return undefined;
    try {
      const { platform } = parseConfig(await blob.read(0, blob.size), this.#where);
      return platform?.os === 'unknown' ? undefined : platform;
    } catch {
      return undefined; // an artifact's
    }
  }
}

/** What is missing, and what to do: of an index whole platforms may be there. */
function incomplete({ kind, parts, missing, descriptor }: Document, where: string): UnpackError {
  const details = { details: { digest: descriptor.digest } };
  if (kind === 'manifest') {
    const many = missing.length === 1 ? 'the blob' : `${missing.length} blobs`;
    return new UnpackError(
      'BLOB_NOT_FOUND',
      `${where} lacks ${many} ${listed(missing)}; the image is not complete`,
      details,
    );
  }
  const whole = [
    ...new Set(parts.filter((part) => part.missing.length === 0).flatMap((part) => part.platforms.map(formatPlatform))),
  ];
  const advice =
    whole.length === 0
      ? 'no platform of it is complete: copy it anew'
      : `push what is there with --platform ${whole.join(' ')} (the index stays as it is), or bring the rest`;
  return new UnpackError(
    'BLOB_NOT_FOUND',
    `${where}: the index ${shortDigest(descriptor.digest)} lists what is not there: ${listed(missing)}; ${advice}`,
    details,
  );
}

function once(descriptors: readonly Descriptor[]): Descriptor[] {
  return [...new Map(descriptors.map((one) => [one.digest, one])).values()];
}

const FOREIGN = /nondistributable|rootfs\.foreign/;

const LISTS = ['manifests', 'config', 'layers', 'blobs'] as const;
const DOCUMENT = fieldNames('mediaType', ...LISTS);

/** What a manifest names; `blobs` is what artifact manifests had for a while. */
function blobsOf(fields: JsonFields): unknown[] {
  const config = fields.get('config');
  return [...(config === undefined ? [] : [config]), ...fields.list('layers'), ...fields.list('blobs')];
}

function referenceOf({ labels, descriptor }: IndexEntry): Reference {
  const about = labels.annotations?.['vnd.docker.reference.digest'];
  const platform = labels.platform?.os === 'unknown' ? undefined : labels.platform;
  const name = descriptor === undefined ? 'an entry that can’t be read' : shortDigest(descriptor.digest);
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
