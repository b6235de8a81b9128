import { UnpackError } from '../errors.ts';
import { type Descriptor, descriptorJson } from '../oci/descriptor.ts';
import { type BlobDigest, digestOf, isDigest, shortDigest } from '../oci/digest.ts';
import { REF_NAME } from '../oci/image-index.ts';
import { imagesCalled, namesOf, tagOf } from '../oci/image-names.ts';
import { OCI_INDEX } from '../oci/media-type.ts';
import { formatPlatform, mostSuitable, type Platform } from '../oci/platform.ts';
import { listed } from '../oci/similar-names.ts';
import type { ImageArchive } from './image-archive.ts';
import { type LocalBlob, memoryBlob } from './local-blob.ts';

/** One image of an archive. */
export interface ChosenImage {
  readonly descriptor: Descriptor;
  /** The tag in its name. Not every bucket layout accepts this tag. */
  readonly tag: string | undefined;
  /** The annotation `org.opencontainers.image.ref.name`, for an index in `made`. */
  readonly name?: string;
  /** An index that was made from several images with one name. This index is not in the archive. */
  readonly made?: ReadonlyMap<BlobDigest, LocalBlob>;
}

/**
 * Chooses an image of an archive: by name, by the tag in its name, or by digest. Without a name, it is the image with the tag `tag`,
 * or the only one. Several manifests with one name, each for another platform, are one image: an index is made of them, or the one
 * for `platforms` is chosen.
 * @throws UnpackError IMAGE_NOT_FOUND with a list of the images
 */
export async function chooseImage(
  archive: ImageArchive,
  name: string | undefined,
  tag: string | undefined,
  platforms?: readonly Platform[],
): Promise<ChosenImage> {
  const { images, path } = archive;
  if (name !== undefined && isDigest(name.replace(/^@/, ''))) return byDigest(archive, name.replace(/^@/, ''));
  const found = name !== undefined ? imagesCalled(images, name) : tag === undefined ? [] : imagesCalled(images, tag);
  if (found.length > 0) return oneOf(found, archive, name ?? tag, platforms);
  if (name === undefined && images.length > 0 && (distinct(images).length === 1 || haveOneName(images))) {
    return oneOf(images, archive, undefined, platforms);
  }
  const which =
    name === undefined ? `${distinct(images).length} images; say which one` : `no image ${JSON.stringify(name)}`;
  const names = [...new Set(images.map(shown))];
  const how = images.every((image) => namesOf(image).length === 0) ? ' (no names; by digest)' : '';
  throw new UnpackError(
    'IMAGE_NOT_FOUND',
    `${path} has ${which}${how}${names.length === 0 ? '' : `: ${listed(names, name)}`}`,
  );
}

/** An image of the archive's list, or any other manifest or index in it. */
async function byDigest(archive: ImageArchive, text: string): Promise<ChosenImage> {
  const digest = text as BlobDigest; // checked by the caller
  const image = archive.images.find((one) => one.digest === digest);
  if (image !== undefined) return { descriptor: image, tag: tagOf(image) };
  const blob = await archive.find(digest);
  if (blob === undefined) {
    const names = [...new Set(archive.images.map(({ digest }) => digest))];
    throw new UnpackError(
      'IMAGE_NOT_FOUND',
      `${archive.path} has no image ${shortDigest(digest)}; its images: ${listed(names, digest)}`,
    );
  }
  return { descriptor: { mediaType: '', digest, size: blob.size }, tag: undefined };
}

function oneOf(
  found: readonly Descriptor[],
  archive: ImageArchive,
  wanted: string | undefined,
  platforms: readonly Platform[] | undefined,
): ChosenImage {
  const all = distinct(found);
  const suitable = haveOneName(all)
    ? distinct((platforms ?? []).flatMap((wanted) => mostSuitable(all, wanted, platformsOf)))
    : [];
  const images = suitable.length > 0 ? suitable : all;
  const [first] = images;
  if (first !== undefined && images.length === 1) return { descriptor: first, tag: tagOf(first) };
  const own = images.map(({ platform }) => (platform === undefined ? undefined : formatPlatform(platform)));
  if (haveOneName(images) && !own.includes(undefined) && new Set(own).size === images.length) {
    const manifests = images.map(({ mediaType, digest, size, platform }) =>
      descriptorJson({ mediaType, digest, size, ...(platform === undefined ? {} : { platform }) }),
    );
    const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests }));
    const annotations = first?.annotations;
    const descriptor: Descriptor = {
      mediaType: OCI_INDEX,
      digest: digestOf(bytes),
      size: bytes.length,
      ...(annotations === undefined ? {} : { annotations }),
    };
    const name = annotations?.[REF_NAME];
    const tag = first === undefined ? undefined : tagOf(first);
    return {
      descriptor,
      tag,
      made: new Map([[descriptor.digest, memoryBlob(bytes)]]),
      ...(name === undefined ? {} : { name }),
    };
  }
  const names = images.map((image) => `${shown(image)}${namesOf(image).length === 0 ? '' : ` (@${image.digest})`}`);
  throw new UnpackError(
    'IMAGE_NOT_FOUND',
    `${archive.path} has ${images.length} images${wanted === undefined ? '' : ` called ${JSON.stringify(wanted)}`}; say which one, by its full name or its digest: ${listed(names)}`,
  );
}

const platformsOf = ({ platform }: Descriptor): readonly Platform[] => (platform === undefined ? [] : [platform]);

function distinct(images: readonly Descriptor[]): Descriptor[] {
  return [...new Map(images.map((image) => [image.digest, image])).values()];
}

function haveOneName(images: readonly Descriptor[]): boolean {
  const names = images.map((image) => namesOf(image)[0]);
  return names[0] !== undefined && names.every((name) => name === names[0]);
}

function shown(image: Descriptor): string {
  const platform = image.platform === undefined ? '' : ` (${formatPlatform(image.platform)})`;
  return namesOf(image)[0] ?? `@${image.digest}${platform}`;
}
