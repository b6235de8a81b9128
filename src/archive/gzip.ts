import { createGunzip } from 'node:zlib';
import { INFLATE_OPTIONS, inflating, writeWhole } from './inflating.ts';
import { isalInflater } from './isal.ts';
import { checkZeros, endsTooEarly, followedByOther, inflateMembers, never } from './members.ts';

/**
 * Inflates gzip data with any number of members (RFC 1952, 2.2), as eStargz and pigz write them. A piece is valid until the
 * next one is requested.
 * @param native whether to use ISA-L, if it is installed
 * @param busy as for `inflateMembers`
 * @throws UnpackError LAYER_CORRUPT, also if other bytes than zeros follow the last member
 */
export function gunzip(
  chunks: AsyncIterable<Buffer>,
  native: boolean,
  busy: () => boolean = never,
): AsyncGenerator<Buffer> {
  const inflater = native ? isalInflater() : undefined;
  return inflater === undefined ? gunzipWithZlib(chunks) : inflateMembers(chunks, inflater, busy);
}

/** A byte that is not in the magic number of a member. */
const PROBE = Buffer.from([0]);

function gunzipWithZlib(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const stream = createGunzip(INFLATE_OPTIONS);
  let probing = false;
  const feed = async (): Promise<void> => {
    let before = 0;
    let ended = false;
    for await (const chunk of chunks) {
      if (!ended) {
        await writeWhole(stream, chunk);
        if (stream.destroyed) return; // the stream failed, or the reader has stopped
        // zlib starts the next member by itself, and stops only at a byte that does not start a member
        ended = stream.bytesWritten - before < chunk.length;
      }
      checkZeros(chunk.subarray(stream.bytesWritten - before), 'gzip');
      before = stream.bytesWritten;
    }
    if (ended) return;
    // zlib does not report whether it is inside a member, so one more byte is written. After a complete member zlib
    // does not take the byte. After half a magic number zlib fails. Inside a member zlib takes the byte, so the data is
    // truncated.
    probing = true;
    await writeWhole(stream, PROBE);
    if (!stream.destroyed && stream.bytesWritten > before) throw endsTooEarly('gzip');
  };
  // the caller has checked the first magic number, so a header error concerns a later member
  return inflating(stream, 'gzip', feed, (error) =>
    isHeaderError(error) ? followedByOther('gzip') : probing ? endsTooEarly('gzip') : undefined,
  );
}

/** zlib has one code for all errors in the data, so only the message distinguishes them. */
const isHeaderError = (error: unknown): boolean => error instanceof Error && error.message === 'incorrect header check';
