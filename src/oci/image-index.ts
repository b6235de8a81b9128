import { UnpackError } from '../errors.ts';
import { type Descriptor, type DescriptorLabels, descriptorFields, readDescriptor, readLabels } from './descriptor.ts';
import { JsonReading } from './json-fields.ts';
import { describePlatform } from './platform.ts';
import { listed } from './similar-names.ts';

/** OCI image spec, image-layout.md: the annotation by which an index names its images. */
export const REF_NAME = 'org.opencontainers.image.ref.name';

/**
 * One entry of an index. Only the entry that is chosen has to be right: a mirror cannot mend the others without changing
 * the digest of the index.
 */
export interface IndexEntry {
  readonly labels: DescriptorLabels;
  /** Absent where the entry names nothing that could be read: `problem` says why. */
  readonly descriptor?: Descriptor;
  readonly problem?: UnpackError;
  /** What the entry says otherwise than it should: for the warnings of who chooses it. */
  readonly warnings: readonly string[];
}

export interface ImageIndex {
  /** In their order, and as many as there are in the document. */
  readonly manifests: readonly IndexEntry[];
  /** What the index itself says otherwise than it should. */
  readonly warnings: readonly string[];
}

/** Entries of an index, each for itself. */
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

/** What an index calls by one tag. */
export interface TaggedImage extends Descriptor {
  readonly warnings: readonly string[];
  /** All that have the tag, where these are several images: the platform decides. */
  readonly entries?: readonly IndexEntry[];
}

/**
 * The image that an index of an image layout calls `tag`. Several images may have the same tag, one for each platform.
 * @throws UnpackError IMAGE_NOT_FOUND that lists what there is, MANIFEST_INVALID when the entry with the tag is wrong
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
