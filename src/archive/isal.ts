import koffi from 'koffi';
import { UnpackError } from '../errors.ts';
import { type AsyncFunction, addressOf, callAsync } from '../system/libc.ts';
import { type Library, NativeCode } from '../system/native-code.ts';
import { SpareBuffers } from '../system/spare-buffers.ts';
import { givesKnownAnswer, KNOWN_GZIP } from './known-answers.ts';
import type { Following, MemberInflater } from './members.ts';

/**
 * Intel's ISA-L (Debian package `libisal2`) inflates gzip about twice as fast as zlib. gzip.ts uses it if it is installed
 * and passes its known-answer test. The library is called inside this process, so no bytes go through a pipe.
 *
 * FIELD: offsets in `struct inflate_state` (igzip_lib.h) on 64-bit machines. They are part of the ABI of libisal.so.2.
 */
const FIELD = { nextOut: 0, availOut: 8, nextIn: 16, availIn: 32, blockState: 21_160, crcFlag: 21_172 } as const;
/** Version 2.31 needs 87,368 bytes. Later minor versions can append fields. */
const STATE_BYTES = 128 * 1024;
/** One pool per thread. It holds only memory, so nobody must close it. */
const STATES = new SpareBuffers(STATE_BYTES);
const GZIP_WITH_CHECKSUM = 1;
const BLOCK_FINISHED = 5;
const LIBRARY = 'libisal.so.2';

interface Functions {
  readonly init: (state: Buffer) => void;
  readonly reset: (state: Buffer) => void;
  readonly inflate: ((state: Buffer) => number) & AsyncFunction;
}

/** Exported for tests, which pass a broken library. @param load throws if the library is missing */
export function isalIn(load: () => Library): NativeCode<Functions> {
  return new NativeCode<Functions>(
    () => {
      const library = load();
      return {
        init: library.func('void isal_inflate_init(void *)'),
        reset: library.func('void isal_inflate_reset(void *)'),
        inflate: library.func('int isal_inflate(void *)'),
      };
    },
    (functions) => givesKnownAnswer(new IsalInflater(functions), KNOWN_GZIP),
  );
}

/** Loaded at the first use, and kept: see `NativeCode`. */
export const ISAL = isalIn(() => koffi.load(LIBRARY));

/** A decompressor of gzip members. `undefined` if ISA-L cannot be used; in this case the caller uses zlib. */
export function isalInflater(isal = ISAL): MemberInflater | undefined {
  const { functions } = isal;
  return functions === undefined ? undefined : new IsalInflater(functions);
}

class IsalInflater implements MemberInflater {
  readonly format = 'gzip';
  private readonly state = STATES.take();
  private readonly functions: Functions;

  constructor(functions: Functions) {
    this.functions = functions;
    this.state.fill(0);
    functions.init(this.state);
    this.state.writeUInt32LE(GZIP_WITH_CHECKSUM, FIELD.crcFlag);
  }

  get unread(): number {
    return this.state.readUInt32LE(FIELD.availIn);
  }

  get room(): number {
    return this.state.readUInt32LE(FIELD.availOut);
  }

  input(bytes: Buffer): void {
    this.state.writeBigUInt64LE(addressOf(bytes), FIELD.nextIn);
    this.state.writeUInt32LE(bytes.length, FIELD.availIn);
  }

  output(bytes: Buffer): void {
    this.state.writeBigUInt64LE(addressOf(bytes), FIELD.nextOut);
    this.state.writeUInt32LE(bytes.length, FIELD.availOut);
  }

  following(bytes: Buffer): Following {
    if (bytes[0] === 0) return 'zeros';
    if (bytes[0] !== 0x1f) return 'other';
    return bytes.length === 1 ? 'unknown' : bytes[1] === 0x8b ? 'member' : 'other';
  }

  /**
   * ISA-L (2.30) keeps the state of a header's optional fields on its stack. If a header comes in pieces, the second
   * call reads values that another call has left on the stack. So the header must be complete.
   *
   * ISA-L also ignores reserved flags, which zlib and RFC 1952 refuse. They are refused here, because acceptance must not
   * depend on whether ISA-L is installed.
   */
  hasHeader(bytes: Buffer): boolean {
    return hasWholeHeader(bytes);
  }

  nextMember(): void {
    this.functions.reset(this.state);
  }

  async run(): Promise<boolean> {
    return this.ended(await callAsync(this.functions.inflate, this.state));
  }

  runHere(): boolean {
    return this.ended(this.functions.inflate(this.state));
  }

  free(): void {
    STATES.give(this.state);
  }

  private ended(result: number): boolean {
    if (result < 0) {
      throw new UnpackError('LAYER_CORRUPT', `the gzip data is corrupt: ${REASONS[result] ?? `error ${result}`}`);
    }
    return this.state.readUInt32LE(FIELD.blockState) === BLOCK_FINISHED;
  }
}

/** The flags of a gzip header (RFC 1952, 2.3.1). */
const FLAG = { checksum: 2, extra: 4, name: 8, comment: 16, reserved: 0xe0 } as const;
/** A header longer than this goes to ISA-L in pieces, because names have no limit. */
const LONGEST_HEADER = 1 << 17;

/**
 * Whether `bytes` contain a complete header. A header without optional fields does not need to be complete.
 * @throws UnpackError LAYER_CORRUPT for reserved flags
 */
function hasWholeHeader(bytes: Buffer): boolean {
  const flags = bytes[3];
  if (flags === undefined) return false;
  if ((flags & FLAG.reserved) !== 0) {
    throw new UnpackError('LAYER_CORRUPT', 'the gzip data is corrupt: unknown header flags set');
  }
  if (flags === 0 || bytes.length > LONGEST_HEADER) return true;
  let at = 10;
  if ((flags & FLAG.extra) !== 0) {
    if (bytes.length < at + 2) return false;
    at += 2 + bytes.readUInt16LE(at);
  }
  for (const flag of [FLAG.name, FLAG.comment]) {
    if ((flags & flag) === 0) continue;
    const end = bytes.indexOf(0, at);
    if (end < 0) return false;
    at = end + 1;
  }
  return bytes.length >= at + ((flags & FLAG.checksum) === 0 ? 0 : 2);
}

const REASONS: Readonly<Record<number, string>> = {
  [-1]: 'invalid deflate block',
  [-2]: 'invalid deflate symbol',
  [-3]: 'a reference to before its start',
  [-4]: 'incorrect header check',
  [-5]: 'unknown compression method',
  [-6]: 'incorrect data check',
};
