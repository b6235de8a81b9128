import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { constants, createGzip, createZstdCompress } from 'node:zlib';
import { LayoutWriter, type WrittenLayer } from '../../dev/layout-writer.ts';
import { type BlobDigest, diffId } from '../../src/oci/digest.ts';
import { type BenchImage, readImage, TAG } from './bench-image.ts';

/** A layer that is made up, piece by piece: `bytes` is a tar. */
export interface MadeUpLayer {
  readonly title: string;
  readonly bytes: Iterable<Buffer>;
  readonly entries: number;
}

export type LayerCompression = 'gzip' | 'zstd';

/** Writes an image of made-up layers into a new layout folder. */
export async function writeImage(
  name: string,
  folder: string,
  layers: Iterable<MadeUpLayer>,
  compression: LayerCompression,
): Promise<BenchImage> {
  await rm(folder, { recursive: true, force: true });
  const blobs = join(folder, 'blobs', 'sha256');
  await mkdir(blobs, { recursive: true });
  const written: WrittenLayer[] = [];
  let entries = 0;
  for (const layer of layers) {
    written.push(await writeLayer(blobs, layer, compression));
    entries += layer.entries;
  }
  await new LayoutWriter(folder).writeImage(TAG, written);
  return readImage(name, folder, { tarBytes: written.reduce((sum, layer) => sum + layer.tarSize, 0), entries });
}

async function writeLayer(blobs: string, layer: MadeUpLayer, compression: LayerCompression): Promise<WrittenLayer> {
  const tar = createHash('sha256');
  const blob = createHash('sha256');
  let tarSize = 0;
  let size = 0;
  const temporary = join(blobs, 'unfinished');
  await pipeline(
    function* () {
      for (const piece of layer.bytes) {
        tar.update(piece);
        tarSize += piece.length;
        yield piece;
      }
    },
    compression === 'gzip'
      ? createGzip({ level: 6, chunkSize: 1 << 20 }) // what builders use
      : createZstdCompress({ chunkSize: 1 << 20, params: { [constants.ZSTD_c_compressionLevel]: 3 } }),
    async function* (chunks: AsyncIterable<Buffer>) {
      for await (const chunk of chunks) {
        blob.update(chunk);
        size += chunk.length;
        yield chunk;
      }
    },
    createWriteStream(temporary),
  );
  const hex = blob.digest('hex');
  await rename(temporary, join(blobs, hex));
  return {
    title: layer.title,
    mediaType: `application/vnd.oci.image.layer.v1.tar+${compression}`,
    digest: `sha256:${hex}` as BlobDigest, // made here
    diffId: diffId(`sha256:${tar.digest('hex')}`),
    size,
    tarSize,
  };
}
