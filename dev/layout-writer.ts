import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { constants, createGzip, createZstdCompress } from 'node:zlib';
import { create } from 'tar';
import type { Descriptor } from '../src/oci/descriptor.ts';
import { type BlobDigest, type DiffId, diffId, digestOf, hexOf } from '../src/oci/digest.ts';
import { OCI_CONFIG, OCI_MANIFEST } from '../src/oci/media-type.ts';
import { hostPlatform } from '../src/oci/platform.ts';
import { imageConfig, imageManifest, layoutHead } from './image-documents.ts';

export type LayerCompression = 'gzip' | 'zstd';

/** A layer whose blob is in the layout. */
export interface WrittenLayer {
  readonly title: string;
  readonly mediaType: string;
  readonly digest: BlobDigest;
  readonly diffId: DiffId;
  /** Size of the blob in bytes. */
  readonly size: number;
  /** Size of the uncompressed tar in bytes. */
  readonly tarSize: number;
}

/** A layer that is made from a folder. */
export interface LayerContents {
  readonly title: string;
  /** Becomes the root of the layer. */
  readonly folder: string;
  /** The parts of the folder that go into the layer. Default: all of it. */
  readonly paths?: readonly string[];
  /** A path for which this is true is left out, with everything below it. */
  readonly leaveOut?: (path: string) => boolean;
  /** Whether each of several links to a file becomes a file of its own. Default: they stay hard links. */
  readonly copyLinks?: boolean;
  /** A prefix for every name. */
  readonly prefix?: string;
  readonly compression: LayerCompression;
}

/** Writes images into an OCI image layout folder, for the demo, the benchmark and the build. */
export class LayoutWriter {
  readonly folder: string;
  readonly #tags = new Map<string, Descriptor>();

  constructor(folder: string) {
    this.folder = folder;
  }

  /** Writes a layer from a folder, with the fastest compression. node-tar makes the archive. */
  async writeLayer(contents: LayerContents, signal: AbortSignal): Promise<WrittenLayer> {
    const archive = create(
      {
        cwd: contents.folder,
        ...(contents.prefix === undefined ? {} : { prefix: contents.prefix }),
        filter: (path, stat) => {
          // node-tar takes a file with one link for a file of its own
          if (contents.copyLinks === true && 'isFile' in stat && stat.isFile()) stat.nlink = 1;
          return !(contents.leaveOut?.(path) ?? false);
        },
        onWriteEntry: (entry) => {
          // every file belongs to the user of this process: to root, or to the only user that can own the files unpacked
          const owner = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 };
          if (entry.stat !== undefined) Object.assign(entry.stat, owner);
        },
      },
      [...(contents.paths ?? ['.'])],
    );
    const compressor =
      contents.compression === 'gzip'
        ? createGzip({ level: 1 })
        : createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: 1 } });
    return this.#writeBlobOf(contents, archive, compressor, signal);
  }

  /** Writes a layer whose tar comes in pieces, with the compression of image builders. */
  async writeTar(
    layer: { readonly title: string; readonly compression: LayerCompression },
    tar: Iterable<Buffer>,
  ): Promise<WrittenLayer> {
    const compressor =
      layer.compression === 'gzip'
        ? createGzip({ level: 6, chunkSize: 1 << 20 })
        : createZstdCompress({ chunkSize: 1 << 20, params: { [constants.ZSTD_c_compressionLevel]: 3 } });
    return this.#writeBlobOf(layer, tar, compressor);
  }

  /** Adds an image of these layers, bottom first. @returns the digest of its manifest */
  async writeImage(tag: string, layers: readonly WrittenLayer[]): Promise<BlobDigest> {
    const diffIds = layers.map((layer) => layer.diffId);
    const config = imageConfig(hostPlatform(), diffIds, {
      config: { Cmd: ['/usr/local/bin/node', '--version'], WorkingDir: '/' },
      history: layers.map(({ title }) => ({ created_by: title })),
    });
    const blobs = layers.map(({ mediaType, digest, size }) => ({ mediaType, digest, size }));
    const manifest = imageManifest(await this.#writeDocument(OCI_CONFIG, config), blobs);
    const descriptor = await this.#writeDocument(OCI_MANIFEST, manifest);
    this.#tags.set(tag, descriptor);
    for (const [name, bytes] of layoutHead(this.#tags)) await writeFile(join(this.folder, name), bytes);
    return descriptor.digest;
  }

  async #writeBlobOf(
    layer: { readonly title: string; readonly compression: LayerCompression },
    tar: Iterable<Buffer> | AsyncIterable<Buffer>,
    compressor: NodeJS.ReadWriteStream,
    signal?: AbortSignal,
  ): Promise<WrittenLayer> {
    await mkdir(this.#blobs, { recursive: true });
    const content = new Counter();
    const blob = new Counter();
    const temporary = join(this.folder, 'layer.tmp');
    await pipeline(
      tar,
      (chunks: AsyncIterable<Buffer>) => content.count(chunks),
      compressor,
      (chunks: AsyncIterable<Buffer>) => blob.count(chunks),
      createWriteStream(temporary),
      signal === undefined ? {} : { signal },
    );
    const hex = blob.hash.digest('hex');
    await rename(temporary, join(this.#blobs, hex));
    return {
      title: layer.title,
      mediaType: `application/vnd.oci.image.layer.v1.tar+${layer.compression}`,
      digest: `sha256:${hex}` as BlobDigest, // computed here
      diffId: diffId(`sha256:${content.hash.digest('hex')}`),
      size: blob.bytes,
      tarSize: content.bytes,
    };
  }

  async #writeDocument(mediaType: string, bytes: Buffer): Promise<Descriptor> {
    const digest = digestOf(bytes);
    await writeFile(join(this.#blobs, hexOf(digest)), bytes);
    return { mediaType, digest, size: bytes.length };
  }

  get #blobs(): string {
    return join(this.folder, 'blobs', 'sha256');
  }
}

/** Size and SHA-256 of a stream. */
class Counter {
  readonly hash = createHash('sha256');
  bytes = 0;

  async *count(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      this.hash.update(chunk);
      this.bytes += chunk.length;
      yield chunk;
    }
  }
}
