import type { Descriptor } from '../src/oci/descriptor.ts';
import { REF_NAME } from '../src/oci/image-index.ts';
import { OCI_INDEX, OCI_MANIFEST } from '../src/oci/media-type.ts';
import type { Platform } from '../src/oci/platform.ts';

/**
 * The JSON documents of an image (image spec: config.md, manifest.md, image-index.md, image-layout.md), for the layout
 * writer and for tests. The parameter `more` has fields that are added to the document or replace its fields.
 */
export function imageConfig(platform: Platform, diffIds: readonly string[], more: object = {}): Buffer {
  return json({ ...platform, rootfs: { type: 'layers', diff_ids: diffIds }, ...more });
}

export function imageManifest(config: Descriptor, layers: readonly Descriptor[], more: object = {}): Buffer {
  return json({ schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers, ...more });
}

export function imageIndex(manifests: readonly unknown[], more: object = {}): Buffer {
  return json({ schemaVersion: 2, mediaType: OCI_INDEX, manifests, ...more });
}

/** The two files at the top of an image layout, by their names, with these manifests under these tags. */
export function layoutHead(tags: Iterable<readonly [tag: string, manifest: Descriptor]>): Map<string, Buffer> {
  const manifests = [...tags].map(([tag, manifest]) => ({
    ...manifest,
    annotations: { [REF_NAME]: tag },
  }));
  return new Map([
    ['oci-layout', json({ imageLayoutVersion: '1.0.0' })],
    ['index.json', imageIndex(manifests)],
  ]);
}

export const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
