import { UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { ImageDocument, ImageIndex } from '../oci/manifest.ts';
import { DOCKER_CONFIG, documentKind, OCI_CONFIG } from '../oci/media-type.ts';
import type { Platform } from '../oci/platform.ts';

/** Indexes within indexes. Digests make cycles impossible; this is for patience. */
const DEEPEST = 4;

/** A manifest that an index lists and that may be an image. */
export interface IndexEntry {
  readonly descriptor: Descriptor;
  /** What the index says; the platform of a nested index holds for its entries that name none. */
  readonly platform: Platform | undefined;
}

/**
 * The manifests of an index and of the indexes in it, in their order, without those that are known not to be images:
 * attestations (BuildKit lists them for `unknown/unknown`), artifacts, and media types from before schema 2.
 * @throws UnpackError MANIFEST_INVALID when indexes nest too deep; and as `read`
 */
export async function indexEntries(
  index: ImageIndex,
  read: (descriptor: Descriptor) => Promise<ImageDocument>,
  depth = 1,
  outer?: Platform,
): Promise<IndexEntry[]> {
  const entries: IndexEntry[] = [];
  for (const descriptor of index.manifests) {
    if (isNoImage(descriptor)) continue;
    const platform = descriptor.platform ?? outer;
    if (documentKind(descriptor.mediaType) === 'manifest') {
      entries.push({ descriptor, platform });
    } else {
      if (depth >= DEEPEST) {
        throw new UnpackError('MANIFEST_INVALID', `indexes nest more than ${DEEPEST} deep`, {
          details: { digest: descriptor.digest },
        });
      }
      const nested = await read(descriptor);
      if (nested.kind === 'index') entries.push(...(await indexEntries(nested, read, depth + 1, platform)));
    }
  }
  return entries;
}

function isNoImage({ mediaType, platform, artifactType, annotations }: Descriptor): boolean {
  if (documentKind(mediaType) === undefined) return true;
  if (platform?.os === 'unknown' && platform.architecture === 'unknown') return true;
  if (annotations?.['vnd.docker.reference.type'] !== undefined) return true;
  // for an image some tools put its config's media type here
  return artifactType !== undefined && artifactType !== OCI_CONFIG && artifactType !== DOCKER_CONFIG;
}
