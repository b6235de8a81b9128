import { createGunzip } from 'node:zlib';
import { UnpackError } from '../errors.ts';
import { INFLATE_OPTIONS, inflating, writeWhole } from './inflating.ts';

/**
 * Inflates gzip data of any number of members (RFC 1952, 2.2), as eStargz and pigz write it. Zeros may follow the last
 * member, anything else is LAYER_CORRUPT.
 */
export function gunzip(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const stream = createGunzip(INFLATE_OPTIONS);
  return inflating(stream, 'gzip', async () => {
    let before = 0;
    let ended = false;
    for await (const chunk of chunks) {
      if (!ended) {
        await writeWhole(stream, chunk);
        if (stream.destroyed) return; // it failed, or nobody reads on
        // zlib goes on to the next member by itself and stops only at a byte that begins none
        ended = stream.bytesWritten - before < chunk.length;
      }
      checkPadding(chunk.subarray(stream.bytesWritten - before));
      before = stream.bytesWritten;
    }
    if (!ended) stream.end();
  });
}

function checkPadding(bytes: Buffer): void {
  if (bytes.some((byte) => byte !== 0)) {
    throw new UnpackError('LAYER_CORRUPT', 'the gzip data is followed by bytes that are neither gzip nor zeros');
  }
}
