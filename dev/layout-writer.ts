import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { constants, createGzip, createZstdCompress } from 'node:zlib';
import { create } from 'tar';
import { type BlobDigest, type DiffId, diffId, digestOf } from '../src/oci/digest.ts';
import { hostPlatform } from '../src/oci/platform.ts';

/** A layer as it lies in the layout. */
export interface WrittenLayer {
  readonly title: string;
  readonly mediaType: string;
  readonly digest: BlobDigest;
  readonly diffId: DiffId;
  /** Bytes of the blob and of the tar in it. */
  readonly size: number;
  readonly tarSize: number;
}

/** What goes into a layer: everything in a folder, or a part of it. */
export interface LayerContents {
  readonly title: string;
  /** Becomes the root of the layer. */
  readonly folder: string;
  /** What of the folder, default everything in it; paths that `leaveOut` is true for are left out with all below. */
  readonly paths?: readonly string[];
  readonly leaveOut?: (path: string) => boolean;
  /** Put before every name. */
  readonly prefix?: string;
  readonly compression: 'gzip' | 'zstd';
}

/** Writes images into an OCI image layout folder (image spec, image-layout.md); the archives are node-tar's work. */
export class LayoutWriter {
  readonly folder: string;
  readonly #tags: { readonly mediaType: string; readonly digest: string; readonly size: number; tag: string }[] = [];

  constructor(folder: string) {
    this.folder = folder;
  }

  async writeLayer(contents: LayerContents, signal: AbortSignal): Promise<WrittenLayer> {
    await mkdir(this.#blobs, { recursive: true });
    const archive = create(
      {
        cwd: contents.folder,
        ...(contents.prefix === undefined ? {} : { prefix: contents.prefix }),
        filter: (path) => !(contents.leaveOut?.(path) ?? false),
        onWriteEntry: (entry) => {
          // root's, whoever owns them here; without root, one's own, because nothing else could be unpacked again
          const owner = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 };
          if (entry.stat !== undefined) Object.assign(entry.stat, owner);
        },
      },
      [...(contents.paths ?? ['.'])],
    );
    const tar = new Counter();
    const blob = new Counter();
    const temporary = join(this.folder, 'layer.tmp');
    // the fastest settings: this is about unpacking
    const compressor =
      contents.compression === 'gzip'
        ? createGzip({ level: 1 })
        : createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: 1 } });
    await pipeline(
      archive,
      (chunks: AsyncIterable<Buffer>) => tar.count(chunks),
      compressor,
      (chunks: AsyncIterable<Buffer>) => blob.count(chunks),
      createWriteStream(temporary),
      { signal },
    );
    const hex = blob.hash.digest('hex');
    await rename(temporary, join(this.#blobs, hex));
    return {
      title: contents.title,
      mediaType: `application/vnd.oci.image.layer.v1.tar+${contents.compression}`,
      digest: `sha256:${hex}` as BlobDigest, // made here
      diffId: diffId(`sha256:${tar.hash.digest('hex')}`),
      size: blob.bytes,
      tarSize: tar.bytes,
    };
  }

  /** Adds an image of these layers, bottom-most first. @returns the digest of its manifest */
  async writeImage(tag: string, layers: readonly WrittenLayer[]): Promise<BlobDigest> {
    const { os, architecture, variant } = hostPlatform();
    const config = await this.#writeBlob({
      os,
      architecture,
      ...(variant === undefined ? {} : { variant }),
      config: { Cmd: ['/usr/local/bin/node', '--version'], WorkingDir: '/' },
      rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.diffId) },
      history: layers.map(({ title }) => ({ created_by: title })),
    });
    const mediaType = 'application/vnd.oci.image.manifest.v1+json';
    const manifest = await this.#writeBlob({
      schemaVersion: 2,
      mediaType,
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
      layers: layers.map(({ mediaType, digest, size }) => ({ mediaType, digest, size })),
    });
    this.#tags.push({ mediaType, ...manifest, tag });
    const manifests = this.#tags.map(({ tag, ...descriptor }) => ({
      ...descriptor,
      annotations: { 'org.opencontainers.image.ref.name': tag },
    }));
    await writeFile(join(this.folder, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
    await writeFile(join(this.folder, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests }));
    return manifest.digest;
  }

  /** A blob's bytes. */
  readBlob(digest: BlobDigest): Promise<Buffer> {
    return readFile(join(this.#blobs, digest.slice('sha256:'.length)));
  }

  get #blobs(): string {
    return join(this.folder, 'blobs', 'sha256');
  }

  async #writeBlob(document: unknown): Promise<{ readonly digest: BlobDigest; readonly size: number }> {
    const bytes = Buffer.from(JSON.stringify(document));
    const digest = digestOf(bytes);
    await writeFile(join(this.#blobs, digest.slice('sha256:'.length)), bytes);
    return { digest, size: bytes.length };
  }
}

/** Size and digest of what passes. */
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
