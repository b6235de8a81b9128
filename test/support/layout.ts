import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import type { Layer } from '../../src/oci/descriptor.ts';
import { type BlobDigest, type ChainId, chainIds, type DiffId, digestOf, hexOf } from '../../src/oci/digest.ts';

export type TestCompression = 'gzip' | 'zstd' | 'none';

const MEDIA_TYPE = {
  none: 'application/vnd.oci.image.layer.v1.tar',
  gzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  zstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
} as const;

/** A layer and its blob's bytes. */
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
  /** Of the top layer; to ask an image without layers for it is a mistake of the test. */
  readonly chainId: ChainId;
  readonly manifestDigest: BlobDigest;
  readonly configDigest: BlobDigest;
  /** Every blob of the image: layers, config, manifest. */
  readonly blobs: ReadonlyMap<BlobDigest, Buffer>;
  readonly manifest: { readonly mediaType: string; readonly digest: BlobDigest; readonly size: number };
}

/** An image of these layers, bottom-most first; nothing is written. `more` is in its manifest besides or instead. */
export function imageOf(
  layers: readonly TestLayer[],
  platform = { os: 'linux', architecture: 'amd64' },
  more: Readonly<Record<string, unknown>> = {},
): TestImage {
  const diffs = layers.map((layer) => layer.diff.digest);
  const config = Buffer.from(JSON.stringify({ ...platform, config: {}, rootfs: { type: 'layers', diff_ids: diffs } }));
  const configDigest = digestOf(config);
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: configDigest, size: config.length },
      layers: layers.map((layer) => layer.blob),
      ...more,
    }),
  );
  const manifestDigest = digestOf(manifest);
  const chainId = chainIds(diffs).at(-1);
  return {
    layers,
    get chainId() {
      if (chainId === undefined) throw new Error('the image has no layers');
      return chainId;
    },
    manifestDigest,
    configDigest,
    blobs: new Map<BlobDigest, Buffer>([
      ...layers.map((layer) => [layer.blob.digest, layer.bytes] as const),
      [configDigest, config],
      [manifestDigest, manifest],
    ]),
    manifest: {
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      digest: manifestDigest,
      size: manifest.length,
    },
  };
}

/** Every file of an OCI image layout (image spec, image-layout.md) with these images under these tags, by its path. */
export function layoutFiles(images: Readonly<Record<string, TestImage>>): Map<string, Buffer> {
  const files = new Map<string, Buffer>([['oci-layout', Buffer.from('{"imageLayoutVersion":"1.0.0"}')]]);
  const manifests = Object.entries(images).map(([tag, image]) => {
    for (const [digest, bytes] of image.blobs) files.set(`blobs/sha256/${hexOf(digest)}`, bytes);
    return { ...image.manifest, annotations: { 'org.opencontainers.image.ref.name': tag } };
  });
  files.set('index.json', Buffer.from(JSON.stringify({ schemaVersion: 2, manifests })));
  return files;
}

export async function writeLayout(directory: string, images: Readonly<Record<string, TestImage>>): Promise<void> {
  await mkdir(join(directory, 'blobs/sha256'), { recursive: true });
  for (const [path, bytes] of layoutFiles(images)) await writeFile(join(directory, path), bytes);
}
