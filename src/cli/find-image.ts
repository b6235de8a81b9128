import { UnpackError } from '../errors.ts';
import { findImageName, formatImageName, fullNameOf } from '../oci/image-name.ts';
import { printable } from '../printable.ts';
import type { ImageRecord } from '../snapshots/images.ts';
import { CliError } from './explain-error.ts';
import { digestBegins, requireLength } from './find-snapshot.ts';
import { cutText } from './terminal-text.ts';

/** Finds the image that the user means: by its reference, by the beginning of the reference, or by that of a digest. */

/** The images of one reference. There are several if it has several platforms. */
export interface FoundImages<Image> {
  readonly reference: string;
  readonly images: readonly [Image, ...Image[]];
}

/** Maximum number of references in a message. */
const MOST_NAMED = 3;

/**
 * Finds images by a reference or a digest, or the beginning of one. A whole reference goes before any beginning, and a digest
 * before the beginning of a reference. A whole reference may lack the parts that a full name adds (`alpine`). The digest is
 * that of the manifest, the config or the index, or the chain ID. A name with a digest, as Docker prints it
 * (`app@sha256:…`, `app:1.0@sha256:…`), means the images of that repository with this manifest or index.
 * @param platform `undefined`: all platforms
 * @param root of the store, for messages
 * @throws UnpackError IMAGE_NOT_FOUND; CliError USAGE if several references fit, or too few characters are given
 */
export function findImages<Image extends ImageRecord>(
  all: readonly Image[],
  wanted: string,
  platform: string | undefined,
  root: string,
): FoundImages<Image> {
  const fitting = candidates(all, wanted);
  const images = fitting.filter((image) => platform === undefined || image.platform === platform);
  const [first, ...others] = images;
  if (first === undefined) throw notFound(wanted, platform, fitting, root);
  const references = [...new Set(images.map(({ reference }) => reference))];
  if (references.length > 1) {
    throw new CliError(
      'USAGE',
      `${references.length} images fit ${shown(wanted)}: write the reference of one, such as ${named(references)}`,
    );
  }
  if (first.reference !== wanted && first.reference !== fullNameOf(wanted))
    requireLength(wanted, 'digest or reference');
  return { reference: first.reference, images: [first, ...others] };
}

/** A name with a digest, as Docker prints it. */
export interface NameWithDigest {
  /** With the host. */
  readonly repository: string;
  readonly digest: string;
  /** The full name with the tag, if there is one: `app:1.0@sha256:…`. */
  readonly tagged: string | undefined;
}

/** `undefined` for a text that is no name, or a name without a digest. */
export function nameWithDigest(text: string): NameWithDigest | undefined {
  const name = findImageName(text);
  if (name === undefined || !('digest' in name.version)) return undefined;
  const { host, repository, version } = name;
  const tagged = findImageName(text.slice(0, text.indexOf('@')));
  const hasTag = /:[^/@]+@/.test(text);
  return {
    repository: `${host}/${repository}`,
    digest: version.digest,
    tagged: hasTag && tagged !== undefined ? formatImageName(tagged) : undefined,
  };
}

/** Whether the reference of an image is of this repository. */
export function isOfRepository({ reference }: ImageRecord, repository: string): boolean {
  const name = findImageName(reference);
  return name !== undefined && `${name.host}/${name.repository}` === repository;
}

/** Whether the manifest or the index of an image has this digest. */
export function isImageWith({ manifestDigest, indexDigest }: ImageRecord, digest: string): boolean {
  return manifestDigest === digest || indexDigest === digest;
}

function candidates<Image extends ImageRecord>(all: readonly Image[], wanted: string): readonly Image[] {
  const fullName = fullNameOf(wanted);
  const named = nameWithDigest(wanted);
  const looks = [
    (image: Image) => image.reference === wanted,
    // a store in containerd has full names, and people write short ones
    (image: Image) => image.reference === fullName,
    ({ manifestDigest, configDigest, indexDigest, chainId }: Image) =>
      [manifestDigest, configDigest, indexDigest, chainId].some((digest) => digestBegins(digest ?? '', wanted)),
    (image: Image) => image.reference.startsWith(wanted),
    ...(named === undefined ? [] : looksByName(named)),
  ];
  for (const fits of looks) {
    const found = all.filter(fits);
    if (found.length > 0) return found;
  }
  return [];
}

/** The tag only chooses between images with the same digest, because it may have moved since. */
function looksByName({ repository, digest, tagged }: NameWithDigest): ((image: ImageRecord) => boolean)[] {
  const isMeant = (image: ImageRecord) => isImageWith(image, digest) && isOfRepository(image, repository);
  return [(image) => isMeant(image) && fullNameOf(image.reference) === tagged, isMeant];
}

function notFound(
  wanted: string,
  platform: string | undefined,
  fitting: readonly ImageRecord[],
  root: string,
): UnpackError {
  const there = fitting.map((image) => image.platform || 'no platform').join(', ');
  return new UnpackError(
    'IMAGE_NOT_FOUND',
    fitting.length > 0
      ? `${root} has no image ${shown(wanted)} for ${platform}: it has ${there}`
      : `${root} has no image ${shown(wanted)}: unpackd images ls lists all`,
  );
}

/** A reference of others in a message. */
export function shown(reference: string): string {
  return `"${cutText(printable(reference), 200, 'middle')}"`;
}

function named(references: readonly string[]): string {
  const more = references.length - MOST_NAMED;
  return `${references.slice(0, MOST_NAMED).map(shown).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}
