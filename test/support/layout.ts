import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { imageConfig, imageManifest, layoutHead } from '../../dev/image-documents.ts';
import type { Descriptor, Layer } from '../../src/oci/descriptor.ts';
import { type BlobDigest, type ChainId, chainIds, type DiffId, digestOf, hexOf } from '../../src/oci/digest.ts';
import { OCI_CONFIG, OCI_MANIFEST } from '../../src/oci/media-type.ts';

export type TestCompression = 'gzip' | 'zstd' | 'none';

const MEDIA_TYPE = {
  none: 'application/vnd.oci.image.layer.v1.tar',
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  zstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
} as const;

/** A layer with the bytes of its blob. */
export interface TestLayer extends Layer {
  readonly bytes: Buffer;
}

export function layerOf(tar: Buffer, compression: TestCompression = 'gzip'): TestLayer {
  const bytes = compression === 'gzip' ? gzipSync(tar) : compression === 'zstd' ? zstdCompressSync(tar) : tar;
  return {
    diff: { digest: digestOf(tar) as string as DiffId },
    blob: { mediaType: MEDIA_TYPE[compression], digest: digestOf(bytes), size: bytes.length },
    bytes,
  };
}

export interface TestImage {
  readonly layers: readonly TestLayer[];
  /** Of the top layer. @throws Error for an image without layers */
  readonly chainId: ChainId;
  readonly manifestDigest: BlobDigest;
  readonly configDigest: BlobDigest;
  /** Every blob of the image: layers, config, manifest. */
  readonly blobs: ReadonlyMap<BlobDigest, Buffer>;
  readonly manifest: Descriptor;
}

/** An image of these layers, bottom first, in memory. `more` and `config` add fields to its manifest and config, or replace them. */
export function imageOf(
  layers: readonly TestLayer[],
  platform = { os: 'linux', architecture: 'amd64' },
  more: Readonly<Record<string, unknown>> = {},
  config: Readonly<Record<string, unknown>> = { config: {} },
): TestImage {
  const diffs = layers.map((layer) => layer.diff.digest);
  const configBytes = imageConfig(platform, diffs, config);
  const configBlob = { mediaType: OCI_CONFIG, digest: digestOf(configBytes), size: configBytes.length };
  const blobs = layers.map((layer) => layer.blob);
  const manifestBytes = imageManifest(configBlob, blobs, more);
  const manifest = { mediaType: OCI_MANIFEST, digest: digestOf(manifestBytes), size: manifestBytes.length };
  const chainId = chainIds(diffs).at(-1);
  return {
    layers,
    get chainId() {
      if (chainId === undefined) throw new Error('the image has no layers');
      return chainId;
    },
    manifestDigest: manifest.digest,
    configDigest: configBlob.digest,
    blobs: new Map<BlobDigest, Buffer>([
      ...layers.map((layer) => [layer.blob.digest, layer.bytes] as const),
      [configBlob.digest, configBytes],
      [manifest.digest, manifestBytes],
    ]),
    manifest,
  };
}

/** Every file of an OCI image layout with these images under these tags, by its path. */
export function layoutFiles(images: Readonly<Record<string, TestImage>>): Map<string, Buffer> {
  const tags = Object.entries(images);
  const files = layoutHead(tags.map(([tag, { manifest }]) => [tag, manifest]));
  for (const [, { blobs }] of tags) {
    for (const [digest, bytes] of blobs) files.set(`blobs/sha256/${hexOf(digest)}`, bytes);
  }
  return files;
}

export async function writeLayout(directory: string, images: Readonly<Record<string, TestImage>>): Promise<void> {
  await mkdir(join(directory, 'blobs/sha256'), { recursive: true });
  for (const [path, bytes] of layoutFiles(images)) await writeFile(join(directory, path), bytes);
}
