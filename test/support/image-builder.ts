import { imageConfig, imageIndex, imageManifest } from '../../dev/image-documents.ts';
import type { Descriptor } from '../../src/oci/descriptor.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { OCI_CONFIG, OCI_INDEX, OCI_MANIFEST } from '../../src/oci/media-type.ts';
import type { Platform } from '../../src/oci/platform.ts';

export { json } from '../../dev/image-documents.ts';

/** Stores bytes under their digest. */
export type PutBlob = (bytes: Uint8Array, mediaType: string) => Promise<Descriptor>;

export interface ImageParts {
  readonly platform?: Platform;
  /** Bytes of the layers as they are stored, bottom first. Default: one layer. */
  readonly layers?: readonly Uint8Array[];
  readonly layerType?: string;
  /** Fields that are added to the config or the manifest, or replace theirs. */
  readonly config?: Readonly<Record<string, unknown>>;
  readonly manifest?: Readonly<Record<string, unknown>>;
}

/** Stores layers, config and manifest of a small image, for tests of what happens before a layer is unpacked. */
export async function buildImage(putBlob: PutBlob, parts: ImageParts = {}): Promise<Descriptor> {
  const platform = parts.platform ?? { os: 'linux', architecture: 'amd64' };
  const contents = parts.layers ?? [Buffer.from(`a layer for ${JSON.stringify(platform)}`)];
  const layerType = parts.layerType ?? 'application/vnd.oci.image.layer.v1.tar';
  const layers: Descriptor[] = [];
  for (const bytes of contents) layers.push(await putBlob(bytes, layerType));
  const diffIds = contents.map((bytes) => digestOf(bytes));
  const config = await putBlob(imageConfig(platform, diffIds, parts.config), OCI_CONFIG);
  return putBlob(imageManifest(config, layers, parts.manifest), OCI_MANIFEST);
}

/** Stores an index of manifests. */
export function buildIndex(putBlob: PutBlob, manifests: readonly unknown[], rest: object = {}): Promise<Descriptor> {
  return putBlob(imageIndex(manifests, rest), OCI_INDEX);
}
