import { createGunzip } from 'node:zlib';
import { INFLATE_OPTIONS, inflating, writeWhole } from './inflating.ts';
import { isalInflater } from './isal.ts';
import { checkZeros, endsTooEarly, followedByOther, inflateMembers, never } from './members.ts';

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

/** A byte that no member begins with, nor is half of how one begins. */
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
        if (stream.destroyed) return; // it failed, or nobody reads on
        // zlib goes on to the next member by itself and stops only at a byte that begins none
        ended = stream.bytesWritten - before < chunk.length;
      }
      checkZeros(chunk.subarray(stream.bytesWritten - before), 'gzip');
      before = stream.bytesWritten;
    }
    if (ended) return;
    // Zlib does not tell whether it stands between two members or in one, so it is given one more byte: it leaves that where
    // a member has ended, refuses it after the first byte of what is none, and takes it where the data are cut off.
    probing = true;
    await writeWhole(stream, PROBE);
    if (!stream.destroyed && stream.bytesWritten > before) throw endsTooEarly('gzip');
  };
  // the first member begins as one does, or nobody would have taken the data for gzip
  return inflating(stream, 'gzip', feed, (error) =>
    isHeaderError(error) ? followedByOther('gzip') : probing ? endsTooEarly('gzip') : undefined,
  );
}

/** Zlib has one code for all that is wrong with the data. */
const isHeaderError = (error: unknown): boolean => error instanceof Error && error.message === 'incorrect header check';
