import { UnpackError } from '../errors.ts';
import { SpareBuffers } from '../system/spare-buffers.ts';

/**
 * A decompressor of the machine's own, called in this process: input and output are buffers that it reads and writes
 * while `run` is under way, and that must stay as they are until then.
 */
export interface MemberInflater {
  /** For messages: `gzip`, `zstd`. */
  readonly format: string;
  /** Bytes of the input that were not taken. */
  readonly unread: number;
  /** Bytes of the output that are still free. */
  readonly room: number;
  input(bytes: Buffer): void;
  output(bytes: Buffer): void;
  /** What follows a member, by its first bytes, of which there is one or more. */
  following(bytes: Buffer): Following;
  /**
   * Whether a member that begins with these bytes can be begun with them: its header may have to be there whole.
   * @throws UnpackError LAYER_CORRUPT
   */
  hasHeader(bytes: Buffer): boolean;
  /** Expects another member. */
  nextMember(): void;
  /**
   * Works on another thread until the input is taken, the output is full, or the member has ended, which is what it
   * resolves with.
   * @throws UnpackError LAYER_CORRUPT
   */
  run(): Promise<boolean>;
  /** The same on this thread. */
  runHere(): boolean;
  /** Gives its memory back. */
  free(): void;
}

/** What may follow a member: another one, zeros up to the end, or what has no business there; `unknown`: it takes more bytes. */
export type Following = 'member' | 'zeros' | 'other' | 'unknown';

/** There is always a core to spare. */
export const never = (): boolean => false;

/** Bytes of output a call: little enough to stay in the processor's cache until they are digested and written. */
const OUTPUT_BYTES = 512 << 10;
const OUTPUTS = new SpareBuffers(OUTPUT_BYTES);

/** Less input than this is inflated sooner than it is handed to another thread. */
const WORTH_HANDING = 8 << 10;

/**
 * Everything in a blob of any number of members, in pieces that are valid until the next is asked for. While one piece is
 * written to disk the next is inflated: the call for it is under way before the first is handed out.
 * @param busy whether every core has work already. Then handing a piece to another thread and back gains nothing and
 * costs a twelfth of the whole (measured with two layers on two cores): it is inflated on this one. Asked for each piece.
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
      // its failure is told when it is asked for
      ahead.catch(() => {});
      yield piece;
    }
  } finally {
    // the buffers are written to until it is done
    await ahead.catch(() => {});
    inflater.free();
    OUTPUTS.give(filling);
    OUTPUTS.give(other);
  }
}

/** Reads members one after the other into buffers. */
class MemberReader {
  private readonly chunks: AsyncIterator<Buffer>;
  private readonly inflater: MemberInflater;
  private readonly busy: () => boolean;
  /** Kept from being collected while it is read. It is the source's, and valid until the next is asked for. */
  private chunk: Buffer = Buffer.alloc(0);
  /** Whether the next step needs input; not so while output is left that found no room. */
  private hungry = true;
  private state: 'member' | 'between' | 'padding' | 'end' = 'member';
  /** Nothing of the member has been read. */
  private fresh = true;

  constructor(chunks: AsyncIterator<Buffer>, inflater: MemberInflater, busy: () => boolean) {
    this.chunks = chunks;
    this.inflater = inflater;
    this.busy = busy;
  }

  /** As much of the output as fits into `buffer`; empty at the end. @throws UnpackError LAYER_CORRUPT */
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

  /** The next chunk; `false` where there is none. */
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

  /** Joins chunks until the member can be begun. */
  private async gatherHeader(): Promise<void> {
    this.fresh = false;
    while (!this.inflater.hasHeader(this.rest())) {
      if (!(await this.join())) throw endsTooEarly(this.inflater.format);
    }
  }

  /** After a member comes another, or zeros. */
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

  /** Puts the next chunk behind what is left of this one, which is copied first; `false` where there is none. */
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

/** @throws UnpackError LAYER_CORRUPT where what follows the last member is not padding */
export function checkZeros(bytes: Buffer, format: string): void {
  if (bytes.some((byte) => byte !== 0)) throw followedByOther(format);
}

/** The error for bytes after the last member. Every decompressor gives it the same sentence. */
export function followedByOther(format: string): UnpackError {
  const other = format === 'gzip' ? 'neither gzip data nor zeros' : `no ${format} data`;
  return new UnpackError(
    'LAYER_CORRUPT',
    `the ${format} data is followed by bytes that are ${other}: something has been appended to the blob, or has overwritten its end; build and push the layer again`,
  );
}

export function endsTooEarly(format: string): UnpackError {
  return new UnpackError('LAYER_CORRUPT', `the ${format} data is corrupt: it ends too early`);
}

/** V8 keeps the bytes of very small arrays on its own heap, where it may move them. */
function pinned(chunk: Buffer): Buffer {
  if (chunk.length > 128) return chunk;
  const copy = Buffer.allocUnsafeSlow(256);
  chunk.copy(copy);
  return copy.subarray(0, chunk.length);
}
