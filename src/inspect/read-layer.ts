import { createHash, type Hash } from 'node:crypto';
import { decompress } from '../archive/compression.ts';
import type { EntrySink, TarEntry } from '../archive/entry.ts';
import { type LayerLimits, TarReader } from '../archive/tar-reader.ts';
import { aufsDirectoryOf } from '../diff/aufs.ts';
import { cleanPath, splitPath } from '../diff/paths.ts';
import { parseWhiteout, type WhiteoutName } from '../diff/whiteouts.ts';
import { throwIfAborted } from '../errors.ts';
import type { DigestAlgorithm } from '../oci/digest.ts';
import type { Compression } from '../oci/media-type.ts';

/** An entry of a layer that is read but not written. */
export interface ReadEntry {
  readonly entry: TarEntry;
  /** Set for a whiteout or an opaque marker; `invalid`: a layer with this entry is refused. */
  readonly whiteout: WhiteoutName | { readonly kind: 'invalid' } | undefined;
  /** SHA-256 of a file's data, and of the positions of the data if the file has holes; only with `contents`. */
  readonly content: string | undefined;
}

/** Sizes and digests of a whole layer. */
export interface LayerTotals {
  readonly compression: Compression;
  readonly blob: { readonly digest: string; readonly bytes: number };
  /** The digest of the tar is the DiffID. */
  readonly tar: { readonly digest: string; readonly bytes: number };
  readonly entries: number;
  /** Size of all files in bytes, including holes. */
  readonly contentBytes: number;
}

export interface ReadLayerOptions {
  readonly limits: LayerLimits;
  readonly algorithm: DigestAlgorithm;
  /** Compute the digest of every file's content. */
  readonly contents: boolean;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Reads a layer's blob for `unpackd layer ls` and `unpackd layer diff`, and writes nothing. It yields a few hundred entries at
 * a time, so the memory does not grow with the layer. The compression is found from the first bytes.
 * @returns totals, after the last entries
 * @throws UnpackError LAYER_CORRUPT, LIMIT_EXCEEDED
 */
export async function* readLayer(
  blob: AsyncIterable<Buffer>,
  { limits, algorithm, contents, signal }: ReadLayerOptions,
): AsyncGenerator<readonly ReadEntry[], LayerTotals, undefined> {
  const source = new CountedSource(blob, algorithm);
  let compression: Compression = 'none';
  const tar = createHash(algorithm);
  const sink = new Collector(contents);
  const reader = new TarReader(sink, limits);
  // without ISA-L: speed does not matter here, and Node's own zlib is the reference
  const pieces = decompress(source, {
    native: false,
    memory: limits.memoryBytes,
    found: (found) => {
      compression = found;
    },
  });
  for await (const piece of pieces) {
    throwIfAborted(signal);
    tar.update(piece);
    try {
      reader.write(piece);
    } catch (error) {
      if (sink.done.length > 0) yield sink.done.splice(0); // the entries before the damage are useful
      throw error;
    }
    if (sink.done.length > 0) yield sink.done.splice(0);
  }
  reader.finish();
  return {
    compression,
    blob: source.totals(),
    tar: { digest: `${algorithm}:${tar.digest('hex')}`, bytes: reader.bytes },
    entries: reader.entries,
    contentBytes: sink.contentBytes,
  };
}

class Collector implements EntrySink {
  /** Complete entries. */
  readonly done: ReadEntry[] = [];
  contentBytes = 0;
  private readonly contents: boolean;
  private file: TarEntry | undefined;
  private hash: Hash | undefined;
  private expected = 0;

  constructor(contents: boolean) {
    this.contents = contents;
  }

  entry(entry: TarEntry): void {
    this.contentBytes += entry.size;
    if (entry.type !== 'file') {
      this.done.push({ entry, whiteout: whiteoutOf(entry.name), content: undefined });
      return;
    }
    this.file = entry;
    this.hash = this.contents ? createHash('sha256') : undefined;
    this.expected = 0;
  }

  data(bytes: Buffer, position: number): void {
    if (this.hash === undefined) return;
    // a hole can have terabytes of zeros, so the digest gets the position after the hole instead of the zeros
    if (position !== this.expected) this.hash.update(`\0hole to ${position}\0`);
    this.hash.update(bytes);
    this.expected = position + bytes.length;
  }

  end(): void {
    const { file: entry, hash } = this;
    if (entry === undefined) return;
    const whiteout = whiteoutOf(entry.name);
    const content = hash === undefined || whiteout !== undefined ? undefined : `sha256:${hash.digest('hex')}`;
    this.done.push({ entry, whiteout, content });
    this.file = undefined;
  }
}

function whiteoutOf(name: Buffer): ReadEntry['whiteout'] {
  const { parent, name: last } = splitPath(cleanPath(name));
  if (aufsDirectoryOf(parent) !== undefined) return { kind: 'ignored' };
  try {
    return parseWhiteout(last, parent);
  } catch {
    return { kind: 'invalid' };
  }
}

/** Passes the blob's bytes on, and counts and digests them. */
class CountedSource implements AsyncIterable<Buffer> {
  private readonly chunks: AsyncIterator<Buffer>;
  private readonly hash: Hash;
  private readonly algorithm: DigestAlgorithm;
  private bytes = 0;

  constructor(blob: AsyncIterable<Buffer>, algorithm: DigestAlgorithm) {
    this.chunks = blob[Symbol.asyncIterator]();
    this.hash = createHash(algorithm);
    this.algorithm = algorithm;
  }

  totals(): LayerTotals['blob'] {
    return { digest: `${this.algorithm}:${this.hash.digest('hex')}`, bytes: this.bytes };
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    try {
      for (let next = await this.chunks.next(); !next.done; next = await this.chunks.next()) {
        yield this.counted(next.value);
      }
    } finally {
      await this.chunks.return?.();
    }
  }

  private counted(chunk: Buffer): Buffer {
    this.hash.update(chunk);
    this.bytes += chunk.length;
    return chunk;
  }
}
