import { constants, createZstdDecompress } from 'node:zlib';
import { UnpackError } from '../errors.ts';
import { codeOf, INFLATE_OPTIONS, inflating, writeWhole } from './inflating.ts';
import { endsTooEarly, followedByOther, inflateMembers, never } from './members.ts';
import { MAX_WINDOW, windowLogOf, windowTooLarge, ZstdFrames } from './zstd-frames.ts';
import { zstdInflater } from './zstd-native.ts';

/**
 * Decompresses zstd data with any number of frames, skippable frames included (RFC 8878, 3.1), as zstd:chunked and pzstd
 * write them.
 *
 * Calls Node's zstd directly if possible, and otherwise uses Node's stream. If more bytes follow a frame in the same
 * write, that stream silently stops after the frame. So ZstdFrames finds the last byte of each frame, and the input is
 * split there.
 * @param native whether the zstd inside Node is called directly
 * @param busy as for `inflateMembers`
 * @param memory maximum size of a frame's window in bytes; MAX_WINDOW is the limit in any case
 * @throws UnpackError LAYER_CORRUPT; LIMIT_EXCEEDED for a larger window
 */
export function unzstd(
  chunks: AsyncIterable<Buffer>,
  native: boolean,
  busy: () => boolean = never,
  memory: number = MAX_WINDOW,
): AsyncGenerator<Buffer> {
  const windowLog = windowLogOf(memory);
  const inflater = native ? zstdInflater(windowLog) : undefined;
  return inflater === undefined ? unzstdWithNode(chunks, windowLog) : inflateMembers(chunks, inflater, busy);
}

function unzstdWithNode(chunks: AsyncIterable<Buffer>, windowLog: number): AsyncGenerator<Buffer> {
  const stream = createZstdDecompress({
    ...INFLATE_OPTIONS,
    params: { [constants.ZSTD_d_windowLogMax]: windowLog },
  });
  const feed = async (): Promise<void> => {
    const frames = new ZstdFrames();
    for await (const chunk of chunks) {
      for (const piece of frames.split(chunk)) {
        if ((await writeWhole(stream, piece)) === 'ended') {
          if (stream.destroyed) return; // the stream failed, or the reader has stopped
          throw new UnpackError('LAYER_CORRUPT', 'the zstd data is corrupt: a frame ends before its last block');
        }
      }
    }
    if (frames.end === 'in a magic number') throw followedByOther('zstd');
    if (frames.end === 'in a frame') throw endsTooEarly('zstd');
    stream.end();
  };
  return inflating(stream, 'zstd', feed, (error) => {
    switch (codeOf(error)) {
      case 'ZSTD_error_frameParameter_windowTooLarge':
        return windowTooLarge(windowLog, error);
      // the caller has checked the first magic number, so this concerns a later frame
      case 'ZSTD_error_prefix_unknown':
        return followedByOther('zstd');
      default:
        return undefined;
    }
  });
}
