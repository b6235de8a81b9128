import { UnpackError } from '../errors.ts';
import { SpareBuffers } from '../system/spare-buffers.ts';

/**
 * A native decompressor of one format, for gzip members or zstd frames. `run` reads the input buffer and writes the
 * output buffer; no other code must use these buffers until the promise of `run` resolves.
 */
export interface MemberInflater {
  /** For messages: `gzip`, `zstd`. */
  readonly format: string;
  /** Number of unread bytes of the input. */
  readonly unread: number;
  /** Number of free bytes in the output. */
  readonly room: number;
  input(bytes: Buffer): void;
  output(bytes: Buffer): void;
  /** Classifies the bytes after a member. @param bytes the first bytes after the member, at least one */
  following(bytes: Buffer): Following;
  /**
   * Whether `bytes` contain enough of a member's header to start the member.
   * @throws UnpackError LAYER_CORRUPT
   */
  hasHeader(bytes: Buffer): boolean;
  /** Prepares for the next member. */
  nextMember(): void;
  /**
   * Works on another thread until all input is read, the output is full or the member is complete.
   * @returns whether the member is complete
   * @throws UnpackError LAYER_CORRUPT
   */
  run(): Promise<boolean>;
  /** The same on this thread. */
  runHere(): boolean;
  /** Frees the memory of the inflater. */
  free(): void;
}

/** After a member: another member, zeros up to the end, or data that is not allowed. `unknown`: more bytes are needed. */
export type Following = 'member' | 'zeros' | 'other' | 'unknown';

/** The default for `busy`: a core is always free. */
export const never = (): boolean => false;

/**
 * Number of output bytes per call. It is small, so that the output stays in the processor's cache until it is digested
 * and written.
 */
const OUTPUT_BYTES = 512 << 10;
/** One pool per thread. It holds only memory, so nobody must close it. */
const OUTPUTS = new SpareBuffers(OUTPUT_BYTES);

/** Below this many bytes of input, a call on another thread costs more than it saves. */
const WORTH_HANDING = 8 << 10;

/**
 * Decompresses a blob with any number of members. A piece is valid until the next one is requested. The next piece is
 * decompressed while the caller writes the current one to disk.
 * @param busy whether all cores are busy; called for each piece. If so, the piece is decompressed on this thread. A
 * second thread would then cost a twelfth of the time and not be faster (measured with two layers on two cores).
 */
export async function* inflateMembers(
  chunks: AsyncIterable<Buffer>,
  inflater: MemberInflater,
  busy: () => boolean,
): AsyncGenerator<Buffer> {
  const members = new MemberReader(chunks[Symbol.asyncIterator](), inflater, busy);
  let [filling, other] = [OUTPUTS.take(), OUTPUTS.take()];
  let ahead = members.fill(filling);
  try {
    for (;;) {
      const piece = await ahead;
      if (piece.length === 0) return;
      [filling, other] = [other, filling];
      ahead = members.fill(filling);
      // an error is thrown when the piece is requested
      ahead.catch(() => {});
      yield piece;
    }
  } finally {
    // the decompressor can still write into the buffers
    await ahead.catch(() => {});
    inflater.free();
    OUTPUTS.give(filling);
    OUTPUTS.give(other);
  }
}

/**
 * Decompresses members one after the other into buffers.
 *
 *   member ──▶ between ──▶ member     another member follows
 *              between ──▶ padding    zeros follow
 *   between, padding ──▶ end          the input ends
 */
class MemberReader {
  private readonly chunks: AsyncIterator<Buffer>;
  private readonly inflater: MemberInflater;
  private readonly busy: () => boolean;
  /** The current input. The reference prevents its garbage collection. Valid until the next chunk is requested. */
  private chunk: Buffer = Buffer.alloc(0);
  /** Whether the decompressor needs input. It needs none while it has output that did not fit into the buffer. */
  private hungry = true;
  private state: 'member' | 'between' | 'padding' | 'end' = 'member';
  /** Whether the decompressor has read nothing of the current member yet. */
  private fresh = true;

  constructor(chunks: AsyncIterator<Buffer>, inflater: MemberInflater, busy: () => boolean) {
    this.chunks = chunks;
    this.inflater = inflater;
    this.busy = busy;
  }

  /** Fills `buffer` with output. @returns the filled part; empty at the end @throws UnpackError LAYER_CORRUPT */
  async fill(buffer: Buffer): Promise<Buffer> {
    const { inflater } = this;
    inflater.output(buffer);
    while (this.state !== 'end' && inflater.room > 0) {
      if (this.hungry && inflater.unread === 0 && !(await this.more())) break;
      if (this.state === 'between') await this.begin();
      if (this.state === 'padding') {
        this.checkPadding();
      } else {
        if (this.fresh) await this.gatherHeader();
        const here = this.busy() || inflater.unread < WORTH_HANDING;
        if (here ? inflater.runHere() : await inflater.run()) this.state = 'between';
        this.hungry = this.state === 'between' || inflater.room > 0;
      }
    }
    return buffer.subarray(0, buffer.length - inflater.room);
  }

  /** Gets the next chunk. @returns false if there is no more input */
  private async more(): Promise<boolean> {
    for (;;) {
      const next = await this.chunks.next();
      if (next.done) break;
      if (next.value.length === 0) continue;
      this.chunk = pinned(next.value);
      this.inflater.input(this.chunk);
      return true;
    }
    if (this.state === 'member') throw endsTooEarly(this.inflater.format);
    this.state = 'end';
    return false;
  }

  /** Joins chunks until the header of the member is complete. */
  private async gatherHeader(): Promise<void> {
    this.fresh = false;
    while (!this.inflater.hasHeader(this.rest())) {
      if (!(await this.join())) throw endsTooEarly(this.inflater.format);
    }
  }

  /** Decides how to continue after a member. */
  private async begin(): Promise<void> {
    for (;;) {
      switch (this.inflater.following(this.rest())) {
        case 'member':
          this.inflater.nextMember();
          this.state = 'member';
          this.fresh = true;
          return;
        case 'zeros':
          this.state = 'padding';
          return;
        case 'unknown':
          if (await this.join()) break;
          throw followedByOther(this.inflater.format);
        case 'other':
          throw followedByOther(this.inflater.format);
      }
    }
  }

  /** Appends the next chunk to a copy of the unread input. @returns false if there is no more input */
  private async join(): Promise<boolean> {
    const rest = Buffer.from(this.rest());
    const next = await this.chunks.next();
    this.chunk = pinned(next.done ? rest : Buffer.concat([rest, next.value]));
    this.inflater.input(this.chunk);
    return !next.done;
  }

  private checkPadding(): void {
    checkZeros(this.rest(), this.inflater.format);
    this.inflater.input(this.chunk.subarray(this.chunk.length));
  }

  private rest(): Buffer {
    return this.chunk.subarray(this.chunk.length - this.inflater.unread);
  }
}

/** @throws UnpackError LAYER_CORRUPT if bytes after the last member are not zeros */
export function checkZeros(bytes: Buffer, format: string): void {
  if (bytes.some((byte) => byte !== 0)) throw followedByOther(format);
}

/** The error for other bytes after the last member. All decompressors use this message. */
export function followedByOther(format: string): UnpackError {
  const other = format === 'gzip' ? 'neither gzip data nor zeros' : `no ${format} data`;
  return new UnpackError(
    'LAYER_CORRUPT',
    `the ${format} data is followed by bytes that are ${other}: something has been appended to the blob, or its last bytes have been overwritten; build and push the layer again`,
  );
}

export function endsTooEarly(format: string): UnpackError {
  return new UnpackError('LAYER_CORRUPT', `the ${format} data is corrupt: it ends too early`);
}

/** A buffer whose address does not change. V8 can move the bytes of very small buffers. */
function pinned(chunk: Buffer): Buffer {
  if (chunk.length > 128) return chunk;
  const copy = Buffer.allocUnsafeSlow(256);
  chunk.copy(copy);
  return copy.subarray(0, chunk.length);
}
