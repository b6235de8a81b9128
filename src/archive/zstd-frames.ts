import { UnpackError } from '../errors.ts';
import { followedByOther } from './members.ts';

/** Largest window that a frame may ask for, in bytes: as much as containerd's decoder takes. Nothing else bounds the memory. */
export const MAX_WINDOW = 512 << 20;
/** What every decoder should support (RFC 8878, 3.1.1.1.2), and what `zstd -19` asks for. */
const LEAST_WINDOW = 8 << 20;

/** The largest window for so much memory, as log2 of its bytes. */
export function windowLogOf(memory: number): number {
  return Math.floor(Math.log2(Math.min(MAX_WINDOW, Math.max(LEAST_WINDOW, memory))));
}

/** A frame is whole and asks for more memory than it gets. */
export function windowTooLarge(windowLog: number, cause?: unknown): UnpackError {
  return new UnpackError(
    'LIMIT_EXCEEDED',
    `a zstd frame asks for a window of more than ${2 ** (windowLog - 20)} MiB, the limit (512 MiB, or UNPACK_MAX_LAYER_MEMORY where that is less): compress the layer with a smaller window (zstd --long=27)`,
    { cause },
  );
}

const FRAME_MAGIC = 0xfd2fb528;

/** Whether a zstd frame, or one of the sixteen skippable ones, begins with these four bytes (RFC 8878, 3.1). */
export function isFrameMagic(magic: number): boolean {
  return magic === FRAME_MAGIC || (magic & 0xfffffff0) >>> 0 === 0x184d2a50;
}

const FCS_BYTES = [0, 2, 4, 8] as const;
const DICTIONARY_BYTES = [0, 1, 2, 4] as const;

type FrameState = 'magic' | 'skip-size' | 'skip' | 'descriptor' | 'header' | 'block-header' | 'block' | 'checksum';

/** Finds where zstd frames end, in bytes that come in any pieces. */
export class ZstdFrames {
  private state: FrameState = 'magic';
  /** Bytes of the current field that are still to come. */
  private left = 4;
  /** The field in hand, little-endian; no field that is looked at has more than four bytes. */
  private field = 0;
  private fieldBytes = 0;
  private hasChecksum = false;
  private lastBlock = false;

  /** Where the bytes so far end. */
  get end(): 'after a frame' | 'in a magic number' | 'in a frame' {
    if (this.state !== 'magic') return 'in a frame';
    return this.fieldBytes === 0 ? 'after a frame' : 'in a magic number';
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
        try {
          this.advance();
        } catch (error) {
          yield chunk.subarray(start, at); // what comes before may be refused first
          throw error;
        }
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
        else if (isFrameMagic(field)) this.enter('skip-size', 4);
        else throw followedByOther('zstd');
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
