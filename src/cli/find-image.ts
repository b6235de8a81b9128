import { UnpackError } from '../errors.ts';
import { fullNameOf } from '../oci/image-name.ts';
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
 * that of the manifest, the config or the index, or the chain ID.
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

function candidates<Image extends ImageRecord>(all: readonly Image[], wanted: string): readonly Image[] {
  const fullName = fullNameOf(wanted);
  const looks = [
    (image: Image) => image.reference === wanted,
    // a store in containerd has full names, and people write short ones
    (image: Image) => image.reference === fullName,
    ({ manifestDigest, configDigest, indexDigest, chainId }: Image) =>
      [manifestDigest, configDigest, indexDigest, chainId].some((digest) => digestBegins(digest ?? '', wanted)),
    (image: Image) => image.reference.startsWith(wanted),
  ];
  for (const fits of looks) {
    const found = all.filter(fits);
    if (found.length > 0) return found;
  }
  return [];
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
