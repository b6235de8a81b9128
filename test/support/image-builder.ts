import type { Descriptor } from '../../src/oci/descriptor.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { OCI_CONFIG, OCI_INDEX, OCI_MANIFEST } from '../../src/oci/media-type.ts';
import type { Platform } from '../../src/oci/platform.ts';

/** Stores bytes under their digest. */
export type PutBlob = (bytes: Uint8Array, mediaType: string) => Promise<Descriptor>;

export interface ImageParts {
  readonly platform?: Platform;
  /** Bytes of the layers as stored, bottom-most first. Default: one layer. */
  readonly layers?: readonly Uint8Array[];
  readonly layerType?: string;
  /** Added to, or instead of, what the builder writes. */
  readonly config?: Readonly<Record<string, unknown>>;
  readonly manifest?: Readonly<Record<string, unknown>>;
}

/** Writes config and manifest of a small image; the layers are only stored, not looked at. */
export async function buildImage(putBlob: PutBlob, parts: ImageParts = {}): Promise<Descriptor> {
  const platform = parts.platform ?? { os: 'linux', architecture: 'amd64' };
  const contents = parts.layers ?? [Buffer.from(`a layer for ${JSON.stringify(platform)}`)];
  const layerType = parts.layerType ?? 'application/vnd.oci.image.layer.v1.tar';
  const layers: Descriptor[] = [];
  for (const bytes of contents) layers.push(await putBlob(bytes, layerType));
  const rootfs = { type: 'layers', diff_ids: contents.map((bytes) => digestOf(bytes)) };
  const config = await putBlob(json({ ...platform, rootfs, ...parts.config }), OCI_CONFIG);
  const manifest = { schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers, ...parts.manifest };
  return putBlob(json(manifest), OCI_MANIFEST);
}

/** Writes an index of descriptors. */
export function buildIndex(putBlob: PutBlob, manifests: readonly unknown[], rest: object = {}): Promise<Descriptor> {
  return putBlob(json({ schemaVersion: 2, mediaType: OCI_INDEX, manifests, ...rest }), OCI_INDEX);
}

export const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
