import { readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type LayerCompression, LayoutWriter, type WrittenLayer } from '../../dev/layout-writer.ts';
import type { GeneratedLayer } from './generated-layers.ts';

/** An image to unpack: an OCI image layout with one tag, and the size of its layers. */
export interface BenchImage {
  /** A word for tables and file names. */
  readonly name: string;
  /** The layout's folder. */
  readonly folder: string;
  readonly tag: string;
  readonly manifestDigest: string;
  /** Bottom-most first. */
  readonly layers: readonly BenchLayer[];
  readonly blobBytes: number;
  readonly tarBytes: number;
  readonly entries: number;
}

export interface BenchLayer {
  readonly digest: string;
  readonly path: string;
  readonly size: number;
  readonly compression: 'gzip' | 'zstd' | 'none';
}

/** Bytes and entries of the uncompressed layers. */
export interface Contents {
  readonly tarBytes: number;
  readonly entries: number;
}

export const TAG = 'app';
const TAG_ANNOTATION = 'org.opencontainers.image.ref.name';

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** Reads the image with the tag `app` from a layout. @throws Error if there is none */
export function readImage(name: string, folder: string, contents: Contents): BenchImage {
  const index = readJson<{ manifests: Descriptor[] }>(join(folder, 'index.json'));
  const found = index.manifests.find(({ annotations }) => annotations?.[TAG_ANNOTATION] === TAG);
  if (found === undefined) throw new Error(`${folder} has no image with the tag ${TAG}`);
  const manifest = readJson<{ layers: Descriptor[] }>(blobPath(folder, found.digest));
  const layers = manifest.layers.map(({ mediaType, digest, size }): BenchLayer => {
    const compression = /[+.](gzip|zstd)$/.exec(mediaType)?.[1];
    return {
      digest,
      path: blobPath(folder, digest),
      size,
      compression: compression === 'gzip' || compression === 'zstd' ? compression : 'none',
    };
  });
  const blobBytes = layers.reduce((sum, layer) => sum + layer.size, 0);
  return { name, folder, tag: TAG, manifestDigest: found.digest, layers, blobBytes, ...contents };
}

/** Writes an image of generated layers into a new layout folder. */
export async function writeImage(
  name: string,
  folder: string,
  layers: Iterable<GeneratedLayer>,
  compression: LayerCompression,
): Promise<BenchImage> {
  await rm(folder, { recursive: true, force: true });
  const layout = new LayoutWriter(folder);
  const written: WrittenLayer[] = [];
  let entries = 0;
  for (const { title, pieces, entries: count } of layers) {
    written.push(await layout.writeTar({ title, compression }, pieces));
    entries += count;
  }
  await layout.writeImage(TAG, written);
  return readImage(name, folder, { tarBytes: written.reduce((sum, layer) => sum + layer.tarSize, 0), entries });
}

function blobPath(folder: string, digest: string): string {
  return join(folder, 'blobs', digest.replace(':', '/'));
}

function readJson<T>(path: string): T {
  return JSON.parse(readFileSync(path, 'utf8')) as T; // the benchmark has written it, or the user trusts it
}
