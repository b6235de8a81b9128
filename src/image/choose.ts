import { type FailureCode, UnpackError } from '../errors.ts';
import { type BlobDigest, shortDigest } from '../oci/digest.ts';
import type { IndexEntry } from '../oci/image-index.ts';
import type { ImageDocument } from '../oci/manifest.ts';
import { documentKind, isConfigType, namesNothing } from '../oci/media-type.ts';
import { describePlatform, formatPlatform, type Platform, suitability } from '../oci/platform.ts';
import type { Documents } from './documents.ts';
import type { ResolvedImage } from './request.ts';

/** Indexes within indexes. Digests make cycles impossible; this is for patience. */
const DEEPEST = 4;

/** Some entries, and what was passed on the way to them. */
export interface Listing {
  readonly entries: readonly IndexEntry[];
  /** For messages: `the index sha256:… of s3://mirror`. */
  readonly where: string;
  /** Of what was read on the way: warnings of an image that is chosen here. */
  readonly warnings: readonly string[];
  /** Whether of two images for one platform none is the right one, rather than the first. */
  readonly unique?: boolean;
}

/**
 * The images of a listing for the platforms, in their order, each once. Only what is chosen has to be right.
 *
 * Entries that name a suitable platform come first, the best of them (`suitability`) before the others and then in their
 * order, as containerd has it (core/images/image.go, `Manifest`). Where none does, the entries that name no platform are
 * read to learn it; what of them can't be read is passed over.
 * @throws UnpackError PLATFORM_NOT_FOUND (lists those there are); MANIFEST_INVALID when `unique` and two are; what the
 *   chosen entry fails with; what an entry without a platform failed with, if nothing else was found
 */
export async function chooseImages(
  listing: Listing,
  platforms: readonly Platform[],
  documents: Documents,
): Promise<ResolvedImage[]> {
  const candidates = candidatesOf(listing, documents, 1);
  const chosen = new Map<BlobDigest | undefined, ResolvedImage>(); // two platforms may fall back to one image
  for (const platform of platforms) {
    const search = new Search(platform, listing);
    const found = await search.find(candidates);
    if (found === undefined) throw search.failure();
    const { image } = found;
    if (!chosen.has(image.manifestDigest)) chosen.set(image.manifestDigest, withFallback(found, platform, listing));
  }
  return [...chosen.values()];
}

/**
 * Every image of a listing, in their order. Attestations and artifacts are none; what is wrong is left out with a warning,
 * as long as something remains. What is missing is not left out: a mirror uploads it yet.
 * @throws UnpackError PLATFORM_NOT_FOUND when there is none, IMAGE_NOT_FOUND, BLOB_NOT_FOUND; and as `Documents`
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
    ({ message }) => `${listing.where} lists what can't be unpacked, which was left out: ${message}`,
  );
  return [{ ...first, warnings: [...first.warnings, ...leftOut] }, ...images.slice(1)];
}

/** What no later attempt can mend. */
const LEFT_OUT: ReadonlySet<FailureCode> = new Set(['MANIFEST_INVALID', 'UNSUPPORTED_MEDIA_TYPE']);

/** What one entry that nobody has chosen may fail with. */
const PASSED_OVER: ReadonlySet<FailureCode> = new Set([
  'MANIFEST_INVALID',
  'UNSUPPORTED_MEDIA_TYPE',
  'IMAGE_NOT_FOUND',
  'BLOB_NOT_FOUND',
  'BLOB_DIGEST_MISMATCH',
  'BLOB_SIZE_MISMATCH',
  'LIMIT_EXCEEDED',
  // what a bucket answers for what it lacks to those who must not list it
  'SOURCE_DENIED',
]);

type Content =
  | { readonly kind: 'index'; readonly candidates: readonly Candidate[] }
  | { readonly kind: 'image'; readonly image: ResolvedImage; readonly isArtifact: boolean };

/** One entry of an index that may be an image or an index of images; read when it is wanted, once. */
class Candidate {
  /** What the index says; the platform of a nested index holds for its entries that name none. */
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
   * Whether the index says that it is one: by its type, where some tools put an image's config's media type, or as an
   * attestation of BuildKit.
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

  /** @throws UnpackError as `Documents`, MANIFEST_INVALID when the entry is wrong or indexes nest too deep */
  content(): Promise<Content> {
    this.#content ??= this.#read();
    return this.#content;
  }

  async #read(): Promise<Content> {
    const { descriptor, problem } = this.#entry;
    if (descriptor === undefined)
      throw problem ?? new UnpackError('MANIFEST_INVALID', `${this.#listing.where} is wrong`);
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
        warnings: [...warnings, ...image.warnings],
      },
      isArtifact: document.artifactType !== undefined && !isConfigType(document.artifactType),
    };
  }

  #nested(index: ImageDocument & { kind: 'index' }, digest: BlobDigest, warnings: readonly string[]): Content {
    if (this.#depth >= DEEPEST) {
      throw new UnpackError('MANIFEST_INVALID', `indexes nest more than ${DEEPEST} deep`, { details: { digest } });
    }
    const where = `the index ${shortDigest(digest)} of ${this.#documents.source.name}`;
    const listing = { entries: index.manifests, where, warnings: [...warnings, ...index.warnings] };
    return { kind: 'index', candidates: candidatesOf(listing, this.#documents, this.#depth + 1, this.platform) };
  }
}

/** What of a listing may be an image: not attestations (BuildKit's have no platform) nor other documents. */
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
  /** How well it suits, 0 is best. */
  readonly rank: number;
}

/** The search for the image of one platform. */
class Search {
  readonly #platform: Platform;
  readonly #rankOf: (platform: Platform) => number | undefined;
  readonly #listing: Listing;
  /** Platforms that there are instead. */
  readonly #seen = new Set<string>();
  readonly #failures: UnpackError[] = [];

  constructor(platform: Platform, listing: Listing) {
    this.#platform = platform;
    this.#rankOf = suitability(platform);
    this.#listing = listing;
  }

  async find(candidates: readonly Candidate[]): Promise<Found | undefined> {
    return (await this.#amongNamed(candidates)) ?? (await this.#amongOthers(candidates));
  }

  /** Why nothing was found. */
  failure(): UnpackError {
    const [failure] = this.#failures;
    if (failure !== undefined) return failure;
    const list =
      this.#seen.size === 0 ? 'it has no images that name a platform' : `it has ${[...this.#seen].join(', ')}`;
    const wanted = formatPlatform(this.#platform);
    return new UnpackError('PLATFORM_NOT_FOUND', `${this.#listing.where} has no image for ${wanted}; ${list}`);
  }

  async #amongNamed(candidates: readonly Candidate[]): Promise<Found | undefined> {
    const suitable: { readonly candidate: Candidate; readonly rank: number }[] = [];
    for (const candidate of candidates) {
      if (candidate.platform === undefined) continue;
      this.#seen.add(describePlatform(candidate.platform));
      const rank = this.#rankOf(candidate.platform);
      if (rank !== undefined) suitable.push({ candidate, rank });
    }
    const last = ({ candidate }: { candidate: Candidate }) =>
      Number(candidate.isArtifact) * 2 + Number(candidate.isBroken);
    suitable.sort((a, b) => a.rank - b.rank || last(a) - last(b)); // equal ones stay in their order
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

  async #amongOthers(candidates: readonly Candidate[]): Promise<Found | undefined> {
    const found: Found[] = [];
    for (const candidate of candidates) {
      if (candidate.platform !== undefined || candidate.isArtifact) continue;
      try {
        const one = await this.#inUnnamed(candidate);
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

  async #inUnnamed(candidate: Candidate): Promise<Found | undefined> {
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

/** An image of another architecture is not what was meant, though it runs. */
function withFallback({ image }: Found, wanted: Platform, { where }: Listing): ResolvedImage {
  if (image.platform === undefined) return image;
  const own = formatPlatform(image.platform);
  const architecture = (name: string) => name.split('/')[1];
  if (architecture(own) === architecture(formatPlatform(wanted))) return image;
  const warning = `${where} has no image for ${formatPlatform(wanted)}; ${own} was taken, which runs there`;
  return { ...image, warnings: [...image.warnings, warning] };
}
