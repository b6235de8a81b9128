import { createHash } from 'node:crypto';
import { imageOf, layerOf, type TestCompression, type TestImage, type TestLayer } from './layout.ts';
import { directory, file, tar } from './tar.ts';

/** Images that take much more room on disk than in a bucket, for tests of full disks. */

export interface BulkyLayer {
  readonly layer: TestLayer;
  /** SHA-256 of each file, by its path. */
  readonly files: ReadonlyMap<string, string>;
}

/**
 * A layer with files of `size` bytes in the directory `name`. The bytes follow from the names. The blob is about `ratio`
 * times smaller than the tar.
 */
export function bulkyLayer(
  name: string,
  { files = 10, size = 1 << 20, ratio = 8, compression = 'gzip' as TestCompression } = {},
): BulkyLayer {
  const contents = Array.from({ length: files }, (_, index) => {
    const path = `${name}/${index}`;
    return [path, bytesOf(path, size, ratio)] as const;
  });
  const members = contents.map(([path, content]) => file(path, content, { mode: 0o644, mtime: 1000 }));
  return {
    layer: layerOf(tar(directory(name, { mtime: 1000 }), ...members), compression),
    files: new Map(contents.map(([path, content]) => [path, sha256(content)])),
  };
}

export function bulkyImage(layers: readonly BulkyLayer[]): TestImage {
  return imageOf(layers.map(({ layer }) => layer));
}

/** Shorter than the window of gzip, so that the zeros of each piece take nothing. */
const PIECE = 16 << 10;

/** `size` bytes that depend on the seed only: pieces that begin with random bytes and end with zeros. */
function bytesOf(seed: string, size: number, ratio: number): Buffer {
  const random = Math.ceil(PIECE / ratio);
  const source = createHash('shake256', { outputLength: Math.ceil(size / PIECE) * random })
    .update(seed)
    .digest();
  const bytes = Buffer.alloc(size);
  for (let piece = 0; piece * PIECE < size; piece++) {
    source.copy(bytes, piece * PIECE, piece * random, Math.min((piece + 1) * random, source.length));
  }
  return bytes;
}

export function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
