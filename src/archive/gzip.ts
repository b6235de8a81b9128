import { createGunzip } from 'node:zlib';
import { UnpackError } from '../errors.ts';
import { INFLATE_OPTIONS, inflating, writeWhole } from './inflating.ts';
import { hasIsal, IsalInflater } from './isal.ts';

/**
 * Inflates gzip data of any number of members (RFC 1952, 2.2), as eStargz and pigz write it. Zeros may follow the last
 * member, anything else is LAYER_CORRUPT. The bytes of a piece are valid until the next is asked for.
 */
export function gunzip(chunks: AsyncIterable<Buffer>, useIsal = hasIsal()): AsyncGenerator<Buffer> {
  return useIsal ? gunzipWithIsal(chunks) : gunzipWithZlib(chunks);
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
      checkPadding(chunk.subarray(stream.bytesWritten - before));
      before = stream.bytesWritten;
    }
    if (!ended) stream.end();
  });
}

/** Bytes of output a call: little enough to stay in the processor's cache until they are digested and written. */
const OUTPUT_BYTES = 256 << 10;

/**
 * While one buffer of output is written to disk, the next is inflated on another thread: the call for it is under way
 * before the first is handed out.
 */
async function* gunzipWithIsal(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  const members = new MemberReader(chunks[Symbol.asyncIterator]());
  const spare = [Buffer.allocUnsafeSlow(OUTPUT_BYTES), Buffer.allocUnsafeSlow(OUTPUT_BYTES)];
  let ahead: Promise<Buffer> | undefined;
  try {
    for (let turn = 0; ; turn = 1 - turn) {
      const buffer = spare[turn];
      if (buffer === undefined) return;
      const piece: Buffer = await (ahead ?? members.fill(buffer));
      if (piece.length === 0) return;
      const next = spare[1 - turn];
      if (next === undefined) return;
      ahead = members.fill(next);
      // its failure is told when it is asked for
      ahead.catch(() => {});
      yield piece;
    }
  } finally {
    // ISA-L writes into our buffers until it is done
    await ahead?.catch(() => {});
  }
}

/** Reads gzip members one after the other into buffers. */
class MemberReader {
  private readonly chunks: AsyncIterator<Buffer>;
  private readonly inflater = new IsalInflater();
  /** Kept from being collected while ISA-L reads it. */
  private chunk: Buffer = Buffer.alloc(0);
  /** Whether the next step needs input; not so while output is left that found no room. */
  private hungry = true;
  private state: 'member' | 'between' | 'padding' | 'end' = 'member';

  constructor(chunks: AsyncIterator<Buffer>) {
    this.chunks = chunks;
  }

  /** As much of the output as fits into `buffer`; empty at the end. @throws UnpackError LAYER_CORRUPT */
  async fill(buffer: Buffer): Promise<Buffer> {
    this.inflater.output(buffer);
    while (this.state !== 'end' && this.inflater.room > 0) {
      if (this.hungry && this.inflater.unread === 0 && !(await this.more())) break;
      if (this.state === 'between') this.begin();
      if (this.state === 'padding') {
        checkPadding(this.rest());
        this.inflater.input(this.chunk.subarray(this.chunk.length));
      } else {
        if (await this.inflater.run()) this.state = 'between';
        this.hungry = this.state === 'between' || this.inflater.room > 0;
      }
    }
    return buffer.subarray(0, buffer.length - this.inflater.room);
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
    if (this.state === 'member') throw new UnpackError('LAYER_CORRUPT', 'the gzip data is corrupt: it ends too early');
    this.state = 'end';
    return false;
  }

  /** After a member comes another, or zeros. */
  private begin(): void {
    const rest = this.rest();
    if (rest[0] === 0) {
      this.state = 'padding';
      return;
    }
    this.inflater.nextMember();
    this.state = 'member';
  }

  private rest(): Buffer {
    return this.chunk.subarray(this.chunk.length - this.inflater.unread);
  }
}

/** V8 keeps the bytes of very small arrays on its own heap, where it may move them. */
function pinned(chunk: Buffer): Buffer {
  if (chunk.length > 128) return chunk;
  const copy = Buffer.allocUnsafeSlow(256);
  chunk.copy(copy);
  return copy.subarray(0, chunk.length);
}

function checkPadding(bytes: Buffer): void {
  if (bytes.some((byte) => byte !== 0)) {
    throw new UnpackError('LAYER_CORRUPT', 'the gzip data is followed by bytes that are neither gzip nor zeros');
  }
}
