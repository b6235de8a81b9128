import { UnpackError } from '../errors.ts';
import { followedByOther } from './members.ts';

/** Largest window of a frame, in bytes: containerd's limit. It bounds the memory of the decompressor. */
export const MAX_WINDOW = 512 << 20;
/** Every decoder should support this window (RFC 8878, 3.1.1.1.2). `zstd -19` needs it. */
const LEAST_WINDOW = 8 << 20;

/** The largest window for `memory` bytes, as log2. */
export function windowLogOf(memory: number): number {
  return Math.floor(Math.log2(Math.min(MAX_WINDOW, Math.max(LEAST_WINDOW, memory))));
}

/** The error for a frame with a window above the limit. */
export function windowTooLarge(windowLog: number, cause?: unknown): UnpackError {
  return new UnpackError(
    'LIMIT_EXCEEDED',
    `a zstd frame asks for a window of more than ${2 ** (windowLog - 20)} MiB, the limit (512 MiB, or UNPACK_MAX_LAYER_MEMORY where that is less): compress the layer with a smaller window (zstd --long=27)`,
    { cause },
  );
}

const FRAME_MAGIC = 0xfd2fb528;

/** Whether these four bytes begin a zstd frame or one of the sixteen kinds of skippable frame (RFC 8878, 3.1). */
export function isFrameMagic(magic: number): boolean {
  return magic === FRAME_MAGIC || (magic & 0xfffffff0) >>> 0 === 0x184d2a50;
}

const FCS_BYTES = [0, 2, 4, 8] as const;
const DICTIONARY_BYTES = [0, 1, 2, 4] as const;

type FrameState = 'magic' | 'skip-size' | 'skip' | 'descriptor' | 'header' | 'block-header' | 'block' | 'checksum';

/**
 * Finds the last byte of each zstd frame from headers and block sizes, without decompression. The input can come in any
 * pieces.
 */
export class ZstdFrames {
  private state: FrameState = 'magic';
  /** Number of missing bytes of the current field. */
  private left = 4;
  /** The current field, little-endian. Fields that are read have at most four bytes. */
  private field = 0;
  private fieldBytes = 0;
  private hasChecksum = false;
  private lastBlock = false;

  /** The position of the last input byte. */
  get end(): 'after a frame' | 'in a magic number' | 'in a frame' {
    if (this.state !== 'magic') return 'in a frame';
    return this.fieldBytes === 0 ? 'after a frame' : 'in a magic number';
  }

  /** Splits the input after the last byte of each frame. The decompressor skips the skippable frames itself. */
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
          yield chunk.subarray(start, at); // the decompressor can find an earlier error in this input
          throw error;
        }
        if (this.state !== 'magic') continue;
        yield chunk.subarray(start, at);
        start = at;
      }
    }
    if (chunk.length > start) yield chunk.subarray(start);
  }

  /** Whether the bytes of the current field are skipped. */
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
