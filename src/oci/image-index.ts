import { UnpackError } from '../errors.ts';
import { type Descriptor, type DescriptorLabels, descriptorFields, readDescriptor, readLabels } from './descriptor.ts';
import { JsonReading, parseJson } from './json-fields.ts';
import { describePlatform } from './platform.ts';
import { listed } from './similar-names.ts';

/** The annotation with the tag of an image in an image layout (OCI image spec, image-layout.md). */
export const REF_NAME = 'org.opencontainers.image.ref.name';

/**
 * One entry of an index. Only the entry that is chosen must be valid: a mirror cannot correct the others without changing the
 * digest of the index.
 */
export interface IndexEntry {
  readonly labels: DescriptorLabels;
  /** Absent if the entry is malformed. */
  readonly descriptor?: Descriptor;
  /** Why there is no descriptor. */
  readonly problem?: UnpackError;
  /** Deviations in this entry. They are reported only if the entry is chosen. */
  readonly warnings: readonly string[];
}

export interface ImageIndex {
  /** All entries, in the order of the document. */
  readonly manifests: readonly IndexEntry[];
  /** Deviations in the index itself. */
  readonly warnings: readonly string[];
}

/** Reads the entries of an index. A malformed entry does not affect the others. */
export function readEntries(values: readonly unknown[], what: string): IndexEntry[] {
  return values.map((value, index): IndexEntry => {
    const reading = new JsonReading(what);
    const { warnings } = reading;
    let labels: DescriptorLabels = { mediaType: '' };
    try {
      const fields = descriptorFields(value, reading, `manifests[${index}]`);
      labels = readLabels(fields);
      return { labels, descriptor: readDescriptor(fields, labels), warnings };
    } catch (error) {
      if (!(error instanceof UnpackError)) throw error;
      return { labels, problem: error, warnings };
    }
  });
}

/**
 * The fields of a layout's `index.json`, and the images that it lists, without malformed entries.
 * @throws UnpackError MANIFEST_INVALID if it is not an image index
 */
export function readLayoutIndex(
  bytes: Buffer,
  what: string,
): { readonly fields: Readonly<Record<string, unknown>>; readonly images: readonly Descriptor[] } {
  const fields = parseJson(bytes, what);
  const isIndex = typeof fields === 'object' && fields !== null && 'manifests' in fields && !('layers' in fields);
  const manifests: unknown = isIndex ? (fields.manifests ?? []) : undefined;
  if (!isIndex || !Array.isArray(manifests)) {
    throw new UnpackError('MANIFEST_INVALID', `${what} is not an image index: it has no list "manifests"`);
  }
  return { fields: { ...fields }, images: readEntries(manifests, what).flatMap(({ descriptor }) => descriptor ?? []) };
}

/** The image with a given tag. */
export interface TaggedImage extends Descriptor {
  readonly warnings: readonly string[];
  /** All entries with the tag, if these are several images. The caller chooses by platform. */
  readonly entries?: readonly IndexEntry[];
}

/**
 * Finds the image with a tag in the index of an image layout. Several images can share a tag, one for each platform.
 * @throws UnpackError IMAGE_NOT_FOUND with the tags that exist; MANIFEST_INVALID if the entry with the tag is malformed
 */
export function findTag(index: ImageIndex, tag: string, where: string): TaggedImage {
  const found = index.manifests.filter(({ labels }) => labels.annotations?.[REF_NAME] === tag);
  const first = found.find(({ descriptor }) => descriptor !== undefined);
  if (first?.descriptor === undefined) throw found[0]?.problem ?? notTagged(index, tag, where);
  const { digest } = first.descriptor;
  if (found.some(({ descriptor }) => descriptor?.digest !== digest)) {
    return { ...first.descriptor, warnings: index.warnings, entries: found };
  }
  return { ...first.descriptor, warnings: [...index.warnings, ...first.warnings] };
}

function notTagged(index: ImageIndex, tag: string, where: string): UnpackError {
  const known = index.manifests.flatMap(({ descriptor }) => descriptor ?? []);
  const tags = [...new Set(known.flatMap(({ annotations }) => annotations?.[REF_NAME] ?? []))];
  const digests = [...new Set(known.map(nameOf))];
  const has =
    tags.length > 0
      ? `its tags: ${listed(tags, tag)}`
      : digests.length > 0
        ? `it has no tags; name an image by its digest: ${listed(digests)}`
        : 'it has no images';
  return new UnpackError('IMAGE_NOT_FOUND', `${where} has no image with the tag ${JSON.stringify(tag)}; ${has}`);
}

function nameOf({ digest, platform }: Descriptor): string {
  return platform === undefined ? `@${digest}` : `@${digest} (${describePlatform(platform)})`;
}
