import { type FailureCode, UnpackError } from '../errors.ts';
import { type BlobDigest, shortDigest } from '../oci/digest.ts';
import type { IndexEntry } from '../oci/image-index.ts';
import { documentKind, isConfigType, namesNothing } from '../oci/media-type.ts';
import { describePlatform, formatPlatform, type Platform, suitability } from '../oci/platform.ts';
import type { Documents, ReadDocument } from './documents.ts';
import type { ResolvedImage } from './request.ts';

/**
 * Maximum depth of indexes within indexes. It bounds the number of requests. Cycles are impossible, because indexes
 * refer to digests.
 */
const MAX_DEPTH = 4;

/** The entries of an index, and where they were found. */
export interface Listing {
  readonly entries: readonly IndexEntry[];
  /** For messages: `the index sha256:… of s3://mirror`. */
  readonly where: string;
  /** Warnings of the documents above this listing. A chosen image inherits them. */
  readonly warnings: readonly string[];
  /** The bytes of the nested indexes that lead here. A chosen image has them among its documents. Default: none. */
  readonly nested?: ReadonlyMap<BlobDigest, Uint8Array>;
  /** Whether two images for one platform are an error. Otherwise the first one is chosen. */
  readonly unique?: boolean;
}

/**
 * Chooses one image for each platform, in the order of the platforms, without duplicates. Only chosen entries must be valid.
 *
 * Entries with a suitable platform come first: the best match (`suitability`), then the order of the listing, as in
 * containerd (core/images/image.go, `Manifest`). If there is none, the entries without a platform are read, to find it
 * in their configs; entries that cannot be read are skipped.
 * @throws UnpackError PLATFORM_NOT_FOUND, which lists the platforms that exist; MANIFEST_INVALID for two images if the
 *   listing is `unique`; the failure of the chosen entry; the failure of a skipped entry if no image was found
 */
export async function chooseImages(
  listing: Listing,
  platforms: readonly Platform[],
  documents: Documents,
): Promise<ResolvedImage[]> {
  const candidates = candidatesOf(listing, documents, 1);
  const chosen = new Map<BlobDigest | undefined, ResolvedImage>(); // by digest, because two platforms can fall back to one image
  for (const platform of platforms) {
    const search = new Search(platform, listing);
    const found = await search.find(candidates);
    if (found === undefined) throw search.failure();
    const { image } = found;
    if (!chosen.has(image.manifestDigest)) chosen.set(image.manifestDigest, warnOfFallback(found, platform, listing));
  }
  return [...chosen.values()];
}

/**
 * All images of a listing, in its order, without attestations and artifacts. Invalid entries are left out with a
 * warning, unless no image remains. A missing entry is an error, because the mirror possibly uploads it later.
 * @throws UnpackError PLATFORM_NOT_FOUND if the listing has no image; IMAGE_NOT_FOUND, BLOB_NOT_FOUND; and as `Documents`
 */
export async function everyImage(listing: Listing, documents: Documents): Promise<ResolvedImage[]> {
  const found: ResolvedImage[] = [];
  const failures: UnpackError[] = [];
  const visit = async (candidates: readonly Candidate[]): Promise<void> => {
    for (const candidate of candidates) {
      if (candidate.isArtifact) continue;
      try {
        const content = await candidate.content();
        if (content.kind === 'index') await visit(content.candidates);
        else if (candidate.platform !== undefined || !content.isArtifact) found.push(content.image);
      } catch (error) {
        if (!(error instanceof UnpackError) || !LEFT_OUT.has(error.code)) throw error;
        failures.push(error);
      }
    }
  };
  await visit(candidatesOf(listing, documents, 1));
  const images = [...new Map(found.map((image) => [image.manifestDigest, image])).values()];
  const [first] = images;
  if (first === undefined) {
    throw failures[0] ?? new UnpackError('PLATFORM_NOT_FOUND', `${listing.where} lists no image for any platform`);
  }
  const leftOut = failures.map(
    ({ message }) => `${listing.where} lists an entry that cannot be unpacked; it was left out: ${message}`,
  );
  return [{ ...first, warnings: [...first.warnings, ...leftOut] }, ...images.slice(1)];
}

/** Failures of an entry that no later attempt can repair. */
const LEFT_OUT: ReadonlySet<FailureCode> = new Set(['MANIFEST_INVALID', 'UNSUPPORTED_MEDIA_TYPE']);

/** Failures of an entry without a platform that do not prevent the choice of another entry. */
const PASSED_OVER: ReadonlySet<FailureCode> = new Set([
  'MANIFEST_INVALID',
  'UNSUPPORTED_MEDIA_TYPE',
  'IMAGE_NOT_FOUND',
  'BLOB_NOT_FOUND',
  'BLOB_DIGEST_MISMATCH',
  'BLOB_SIZE_MISMATCH',
  'LIMIT_EXCEEDED',
  // S3 answers 403 for a missing object if the caller has no permission to list the bucket
  'SOURCE_DENIED',
]);

type Content =
  | { readonly kind: 'index'; readonly candidates: readonly Candidate[] }
  | { readonly kind: 'image'; readonly image: ResolvedImage; readonly isArtifact: boolean };

/** An entry of an index: an image or another index. Its document is read on demand, once. */
class Candidate {
  /** The platform in the index; an entry without one inherits the platform of its nested index. */
  readonly platform: Platform | undefined;
  readonly #entry: IndexEntry;
  readonly #listing: Listing;
  readonly #documents: Documents;
  readonly #depth: number;
  #content: Promise<Content> | undefined;

  constructor(entry: IndexEntry, listing: Listing, documents: Documents, depth: number, outer: Platform | undefined) {
    this.platform = entry.labels.platform ?? outer;
    this.#entry = entry;
    this.#listing = listing;
    this.#documents = documents;
    this.#depth = depth;
  }

  /**
   * Whether the index marks the entry as an artifact: by an artifact type, which some tools set to the config's media type
   * for images too, or as an attestation of BuildKit.
   */
  get isArtifact(): boolean {
    const { artifactType, annotations } = this.#entry.labels;
    if (annotations?.['vnd.docker.reference.type'] !== undefined) return true;
    return artifactType !== undefined && !isConfigType(artifactType);
  }

  get isBroken(): boolean {
    return this.#entry.problem !== undefined;
  }

  get digest(): BlobDigest | undefined {
    return this.#entry.descriptor?.digest;
  }

  /** @throws UnpackError as `Documents`, MANIFEST_INVALID if the entry is invalid or indexes nest too deep */
  content(): Promise<Content> {
    this.#content ??= this.#read();
    return this.#content;
  }

  async #read(): Promise<Content> {
    const { descriptor, problem } = this.#entry;
    if (descriptor === undefined)
      throw problem ?? new UnpackError('MANIFEST_INVALID', `${this.#listing.where} is invalid`);
    const { digest } = descriptor;
    const document = await this.#documents.read(descriptor);
    const warnings = [...this.#listing.warnings, ...this.#entry.warnings];
    if (document.kind === 'index') return this.#nested(document, digest, warnings);
    const image = await this.#documents.image(digest, document);
    return {
      kind: 'image',
      image: {
        ...image,
        ...(this.platform === undefined ? {} : { platform: this.platform }),
        documents: new Map([...image.documents, ...(this.#listing.nested ?? [])]),
        warnings: [...warnings, ...image.warnings],
      },
      isArtifact: document.artifactType !== undefined && !isConfigType(document.artifactType),
    };
  }

  #nested(index: ReadDocument & { kind: 'index' }, digest: BlobDigest, warnings: readonly string[]): Content {
    if (this.#depth >= MAX_DEPTH) {
      throw new UnpackError('MANIFEST_INVALID', `indexes nest more than ${MAX_DEPTH} deep`, { details: { digest } });
    }
    const where = `the index ${shortDigest(digest)} of ${this.#documents.source.name}`;
    const nested = new Map([...(this.#listing.nested ?? []), [digest, index.bytes]]);
    const listing = { entries: index.manifests, where, warnings: [...warnings, ...index.warnings], nested };
    return { kind: 'index', candidates: candidatesOf(listing, this.#documents, this.#depth + 1, this.platform) };
  }
}

/**
 * The entries that are possibly images. Attestations (BuildKit gives them an unknown platform) and other documents are
 * left out.
 */
function candidatesOf(listing: Listing, documents: Documents, depth: number, outer?: Platform): Candidate[] {
  return listing.entries
    .filter(({ labels: { mediaType, platform } }) => {
      if (documentKind(mediaType) === undefined && !namesNothing(mediaType)) return false;
      return platform?.os !== 'unknown' && platform?.architecture !== 'unknown';
    })
    .map((entry) => new Candidate(entry, listing, documents, depth, outer));
}

interface Found {
  readonly image: ResolvedImage;
  /** How well the image suits the platform; 0 is best. */
  readonly rank: number;
}

/** The search for the image of one platform. */
class Search {
  readonly #platform: Platform;
  readonly #rankOf: (platform: Platform) => number | undefined;
  readonly #listing: Listing;
  /** The platforms that were found, for the error message. */
  readonly #seen = new Set<string>();
  readonly #failures: UnpackError[] = [];

  constructor(platform: Platform, listing: Listing) {
    this.#platform = platform;
    this.#rankOf = suitability(platform);
    this.#listing = listing;
  }

  async find(candidates: readonly Candidate[]): Promise<Found | undefined> {
    return (await this.#findByEntry(candidates)) ?? (await this.#findByConfig(candidates));
  }

  /** The error if `find` found nothing. */
  failure(): UnpackError {
    const [failure] = this.#failures;
    if (failure !== undefined) return failure;
    const list = this.#seen.size === 0 ? 'none of its images has a platform' : `it has ${[...this.#seen].join(', ')}`;
    const wanted = formatPlatform(this.#platform);
    return new UnpackError('PLATFORM_NOT_FOUND', `${this.#listing.where} has no image for ${wanted}; ${list}`);
  }

  async #findByEntry(candidates: readonly Candidate[]): Promise<Found | undefined> {
    const suitable: { readonly candidate: Candidate; readonly rank: number }[] = [];
    for (const candidate of candidates) {
      if (candidate.platform === undefined) continue;
      this.#seen.add(describePlatform(candidate.platform));
      const rank = this.#rankOf(candidate.platform);
      if (rank !== undefined) suitable.push({ candidate, rank });
    }
    const last = ({ candidate }: { candidate: Candidate }) =>
      Number(candidate.isArtifact) * 2 + Number(candidate.isBroken);
    suitable.sort((a, b) => a.rank - b.rank || last(a) - last(b)); // a stable sort keeps the order of the listing
    for (const { candidate, rank } of suitable) {
      const content = await candidate.content();
      if (content.kind === 'image') {
        this.#checkUnique(suitable.filter((other) => other.rank === rank).map((other) => other.candidate.digest));
        return { image: content.image, rank };
      }
      const found = await this.find(content.candidates);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  async #findByConfig(candidates: readonly Candidate[]): Promise<Found | undefined> {
    const found: Found[] = [];
    for (const candidate of candidates) {
      if (candidate.platform !== undefined || candidate.isArtifact) continue;
      try {
        const one = await this.#readUnnamed(candidate);
        if (one !== undefined) found.push(one);
        if (one?.rank === 0 && !this.#listing.unique) break;
      } catch (error) {
        if (!(error instanceof UnpackError) || !PASSED_OVER.has(error.code)) throw error;
        if (error.code !== 'UNSUPPORTED_MEDIA_TYPE') this.#failures.push(error);
      }
    }
    const [best] = found.sort((a, b) => a.rank - b.rank);
    if (best !== undefined) {
      this.#checkUnique(found.filter(({ rank }) => rank === best.rank).map(({ image }) => image.manifestDigest));
    }
    return best;
  }

  async #readUnnamed(candidate: Candidate): Promise<Found | undefined> {
    const content = await candidate.content();
    if (content.kind === 'index') return this.find(content.candidates);
    const { image, isArtifact } = content;
    if (image.platform === undefined || isArtifact) return undefined;
    this.#seen.add(describePlatform(image.platform));
    const rank = this.#rankOf(image.platform);
    return rank === undefined ? undefined : { image, rank };
  }

  #checkUnique(digests: readonly (BlobDigest | undefined)[]): void {
    if (!this.#listing.unique || new Set(digests).size < 2) return;
    const names = [...new Set(digests.flatMap((digest) => digest ?? []))].join(', ');
    throw new UnpackError(
      'MANIFEST_INVALID',
      `${this.#listing.where} has ${digests.length} images for ${formatPlatform(this.#platform)}; name one by its digest: ${names}`,
    );
  }
}

/** Warns if the image is for another architecture than requested. Such an image runs on the platform. */
function warnOfFallback({ image }: Found, wanted: Platform, { where }: Listing): ResolvedImage {
  if (image.platform === undefined) return image;
  const own = formatPlatform(image.platform);
  const architecture = (name: string) => name.split('/')[1];
  if (architecture(own) === architecture(formatPlatform(wanted))) return image;
  const warning = `${where} has no image for ${formatPlatform(wanted)}; ${own} was chosen, which runs there`;
  return { ...image, warnings: [...image.warnings, warning] };
}
