import { constants, createZstdDecompress } from 'node:zlib';
import { UnpackError } from '../errors.ts';
import { INFLATE_OPTIONS, inflating, writeWhole } from './inflating.ts';
import { inflateMembers, never } from './members.ts';
import { zstdInflater } from './zstd-native.ts';

/** Largest window that a frame may ask for, as log2: what zstd itself accepts without `--long`. It bounds the memory. */
const WINDOW_LOG_MAX = 27;

/**
 * Decompresses zstd data of any number of frames, skippable ones included (RFC 8878, 3.1), as zstd:chunked and pzstd
 * write it.
 *
 * Node's own zstd is called directly where it can be. Its stream ends without a word after the first frame when more
 * bytes follow in the same write. So the frames are measured here, by their headers and block sizes alone, and every write
 * ends where a frame ends.
 * @param native whether Node's zstd may be called directly
 * @param busy as for `inflateMembers`
 */
export function unzstd(
  chunks: AsyncIterable<Buffer>,
  native: boolean,
  busy: () => boolean = never,
): AsyncGenerator<Buffer> {
  const inflater = native ? zstdInflater() : undefined;
  return inflater === undefined ? unzstdWithNode(chunks) : inflateMembers(chunks, inflater, busy);
}

function unzstdWithNode(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const stream = createZstdDecompress({
    ...INFLATE_OPTIONS,
    params: { [constants.ZSTD_d_windowLogMax]: WINDOW_LOG_MAX },
  });
  return inflating(stream, 'zstd', async () => {
    const frames = new ZstdFrames();
    let inFrame = false;
    for await (const chunk of chunks) {
      for (const piece of frames.split(chunk)) {
        if ((await writeWhole(stream, piece)) === 'ended') {
          if (stream.destroyed) return; // it failed, or nobody reads on
          throw new UnpackError('LAYER_CORRUPT', 'the zstd data is corrupt: a frame ends before its last block');
        }
      }
      inFrame = !frames.atBoundary;
    }
    if (inFrame) throw new UnpackError('LAYER_CORRUPT', 'the zstd data is corrupt: it ends too early');
    stream.end();
  });
}

const FRAME_MAGIC = 0xfd2fb528;
const FCS_BYTES = [0, 2, 4, 8] as const;
const DICTIONARY_BYTES = [0, 1, 2, 4] as const;

type FrameState = 'magic' | 'skip-size' | 'skip' | 'descriptor' | 'header' | 'block-header' | 'block' | 'checksum';

/** Finds where zstd frames end, in bytes that come in any pieces. */
class ZstdFrames {
  private state: FrameState = 'magic';
  /** Bytes of the current field that are still to come. */
  private left = 4;
  /** The field in hand, little-endian; no field that is looked at has more than four bytes. */
  private field = 0;
  private fieldBytes = 0;
  private hasChecksum = false;
  private lastBlock = false;

  /** Whether the bytes so far end with a whole frame. */
  get atBoundary(): boolean {
    return this.state === 'magic' && this.fieldBytes === 0;
  }

  /** The same bytes, cut where frames end. The decompressor passes over skippable frames itself. */
  *split(chunk: Buffer): Generator<Buffer> {
    let start = 0;
    let at = 0;
    while (at < chunk.length) {
      if (this.isOpaque()) {
        const step = Math.min(this.left, chunk.length - at);
        this.left -= step;
        at += step;
      } else {
        this.field = (this.field | ((chunk[at] ?? 0) << (8 * this.fieldBytes))) >>> 0;
        this.fieldBytes++;
        this.left--;
        at++;
      }
      while (this.left === 0) {
        this.advance();
        if (this.state !== 'magic') continue;
        yield chunk.subarray(start, at);
        start = at;
      }
    }
    if (chunk.length > start) yield chunk.subarray(start);
  }

  /** Whether the current bytes are passed over and not looked at. */
  private isOpaque(): boolean {
    return this.state === 'skip' || this.state === 'header' || this.state === 'block' || this.state === 'checksum';
  }

  private advance(): void {
    const field = this.field;
    this.field = 0;
    this.fieldBytes = 0;
    switch (this.state) {
      case 'magic':
        if (field === FRAME_MAGIC) this.enter('descriptor', 1);
        else if ((field & 0xfffffff0) >>> 0 === 0x184d2a50) this.enter('skip-size', 4);
        else throw new UnpackError('LAYER_CORRUPT', 'the zstd data is followed by bytes that are no zstd frame');
        break;
      case 'skip-size':
        this.enter('skip', field);
        break;
      case 'descriptor': {
        const single = (field & 0x20) !== 0;
        this.hasChecksum = (field & 0x04) !== 0;
        const sizeBytes = field >> 6 === 0 ? Number(single) : (FCS_BYTES[field >> 6] ?? 0);
        this.enter('header', (single ? 0 : 1) + (DICTIONARY_BYTES[field & 3] ?? 0) + sizeBytes);
        break;
      }
      case 'header':
        this.enter('block-header', 3);
        break;
      case 'block-header': {
        this.lastBlock = (field & 1) !== 0;
        const type = (field >> 1) & 3;
        if (type === 3) throw new UnpackError('LAYER_CORRUPT', 'the zstd data is corrupt: a block of a reserved type');
        this.enter('block', type === 1 ? 1 : field >> 3);
        break;
      }
      case 'block':
        if (!this.lastBlock) this.enter('block-header', 3);
        else if (this.hasChecksum) this.enter('checksum', 4);
        else this.enter('magic', 4);
        break;
      case 'skip':
      case 'checksum':
        this.enter('magic', 4);
    }
  }

  private enter(state: FrameState, left: number): void {
    this.state = state;
    this.left = left;
  }
}
