import { createGunzip } from 'node:zlib';
import { INFLATE_OPTIONS, inflating, writeWhole } from './inflating.ts';
import { isalInflater } from './isal.ts';
import { checkZeros, inflateMembers, never } from './members.ts';

/**
 * Inflates gzip data of any number of members (RFC 1952, 2.2), as eStargz and pigz write it. Zeros may follow the last
 * member, anything else is LAYER_CORRUPT. The bytes of a piece are valid until the next is asked for.
 * @param native whether ISA-L may do it, where it is installed
 * @param busy as for `inflateMembers`
 */
export function gunzip(
  chunks: AsyncIterable<Buffer>,
  native: boolean,
  busy: () => boolean = never,
): AsyncGenerator<Buffer> {
  const inflater = native ? isalInflater() : undefined;
  return inflater === undefined ? gunzipWithZlib(chunks) : inflateMembers(chunks, inflater, busy);
}

function gunzipWithZlib(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
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
      checkZeros(chunk.subarray(stream.bytesWritten - before), 'gzip');
      before = stream.bytesWritten;
    }
    if (!ended) stream.end();
  });
}
