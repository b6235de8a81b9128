import { UnpackError } from '../errors.ts';
import type { Compression } from '../oci/media-type.ts';
import { gunzip } from './gzip.ts';
import { never } from './members.ts';
import { unzstd } from './zstd.ts';

/** Compression by its magic bytes; four are enough. */
export function detectCompression(head: Buffer): Compression {
  if (head[0] === 0x1f && head[1] === 0x8b) return 'gzip';
  if (head.length < 4) return 'none';
  const magic = head.readUInt32LE(0);
  // a zstd frame, or one of the sixteen skippable ones (RFC 8878, 3.1)
  return magic === 0xfd2fb528 || (magic & 0xfffffff0) >>> 0 === 0x184d2a50 ? 'zstd' : 'none';
}

/**
 * The tar inside a blob, in pieces of up to a megabyte. All members of a gzip blob and all frames of a zstd blob count.
 * The bytes of a piece stay valid until the next is asked for.
 * @param native whether native code may be called directly: ISA-L for gzip, where it is installed, and Node's own zstd
 * @param busy whether every core has work already, asked for each piece; then native code runs on this thread
 * @throws UnpackError LAYER_CORRUPT for malformed or truncated data and for bytes after its end; UNSUPPORTED_MEDIA_TYPE
 * where `promised`, the media type's compression, is not what the bytes are
 */
export async function* decompress(
  chunks: AsyncIterable<Buffer>,
  promised: Compression,
  native = true,
  busy: () => boolean = never,
): AsyncGenerator<Buffer> {
  const input = chunks[Symbol.asyncIterator]();
  try {
    let head: Buffer = Buffer.alloc(0);
    while (head.length < 4) {
      const next = await input.next();
      if (next.done) break;
      // a chunk is valid until the next is asked for
      head = head.length === 0 && next.value.length >= 4 ? next.value : Buffer.concat([head, next.value]);
    }
    const found = detectCompression(head);
    if (found !== promised) {
      throw new UnpackError(
        'UNSUPPORTED_MEDIA_TYPE',
        `the layer's media type promises ${describe(promised)}, but its bytes are ${describe(found)}; have it pushed with the right media type`,
      );
    }
    const all = prepend(head, input);
    if (found === 'gzip') yield* gunzip(all, native, busy);
    else if (found === 'zstd') yield* unzstd(all, native, busy);
    else yield* all;
  } finally {
    await input.return?.();
  }
}

const describe = (compression: Compression): string =>
  compression === 'none' ? 'an uncompressed tar' : `${compression} data`;

async function* prepend(head: Buffer, rest: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  if (head.length > 0) yield head;
  for (;;) {
    const next = await rest.next();
    if (next.done) return;
    yield next.value;
  }
}
