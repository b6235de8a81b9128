import { UnpackError } from '../errors.ts';
import { type AsyncFunction, addressOf, callAsync, libc } from '../system/libc.ts';
import { type Library, NativeCode } from '../system/native-code.ts';
import { outOfMemory } from './inflating.ts';
import { givesKnownAnswer, KNOWN_ZSTD } from './known-answers.ts';
import type { Following, MemberInflater } from './members.ts';
import { isFrameMagic, windowLogOf, windowTooLarge } from './zstd-frames.ts';

/**
 * Calls the zstd inside Node directly, for zstd.ts. Node's zstd streams use the same decoder, but they are slower, and
 * they stop after the first frame. The system's libzstd cannot be used: its internal calls would resolve to Node's
 * copy, which has the same symbols and is possibly another version.
 */
const PARAMETER_WINDOW_LOG_MAX = 100;
/** `ZSTD_error_memory_allocation` and `ZSTD_error_frameParameter_windowTooLarge` (zstd_errors.h). */
const MEMORY_ALLOCATION = 64;
const WINDOW_TOO_LARGE = 16;

type Context = object;

interface Functions {
  readonly create: () => Context | null;
  readonly free: (context: Context) => number;
  readonly setParameter: (context: Context, parameter: number, value: number) => number;
  readonly decompress: ((context: Context, to: Buffer, from: Buffer) => number | bigint) & AsyncFunction;
  readonly errorName: (code: number) => string;
}

/** Exported for tests, which pass a broken library. */
export function zstdIn(library: Library): NativeCode<Functions> {
  return new NativeCode<Functions>(
    () => ({
      create: library.func('void *ZSTD_createDCtx()'),
      free: library.func('int64 ZSTD_freeDCtx(void *)'),
      setParameter: library.func('int64 ZSTD_DCtx_setParameter(void *, int, int)'),
      decompress: library.func('int64 ZSTD_decompressStream(void *, void *, void *)'),
      errorName: library.func('const char *ZSTD_getErrorName(int64)'),
    }),
    (functions) => {
      const context = functions.create();
      return context !== null && givesKnownAnswer(new ZstdInflater(functions, context, windowLogOf(0)), KNOWN_ZSTD);
    },
  );
}

/** Loaded at the first use, and kept: see `NativeCode`. */
export const ZSTD = zstdIn(libc);

/**
 * A decompressor of zstd frames. `undefined` if Node's zstd cannot be called directly or has no memory; in this case
 * the caller uses Node's stream.
 * @param windowLog the largest allowed window of a frame, as log2 of its bytes
 */
export function zstdInflater(windowLog: number, zstd = ZSTD): MemberInflater | undefined {
  const { functions } = zstd;
  const context = functions?.create() ?? undefined;
  if (functions === undefined || context === undefined) return undefined;
  return new ZstdInflater(functions, context, windowLog);
}

/** `ZSTD_inBuffer` or `ZSTD_outBuffer` (zstd.h): a pointer, a size and a position. */
class BufferField {
  readonly bytes = Buffer.alloc(128);

  set(target: Buffer): void {
    this.bytes.writeBigUInt64LE(addressOf(target), 0);
    this.bytes.writeBigUInt64LE(BigInt(target.length), 8);
    this.bytes.writeBigUInt64LE(0n, 16);
  }

  get left(): number {
    return this.bytes.readUInt32LE(8) - this.bytes.readUInt32LE(16);
  }
}

class ZstdInflater implements MemberInflater {
  readonly format = 'zstd';
  private readonly from = new BufferField();
  private readonly to = new BufferField();
  private readonly functions: Functions;
  private readonly context: Context;
  private readonly windowLog: number;

  constructor(functions: Functions, context: Context, windowLog: number) {
    this.functions = functions;
    this.context = context;
    this.windowLog = windowLog;
    functions.setParameter(context, PARAMETER_WINDOW_LOG_MAX, windowLog);
  }

  get unread(): number {
    return this.from.left;
  }

  get room(): number {
    return this.to.left;
  }

  input(bytes: Buffer): void {
    this.from.set(bytes);
  }

  output(bytes: Buffer): void {
    this.to.set(bytes);
  }

  following(bytes: Buffer): Following {
    return bytes.length < 4 ? 'unknown' : isFrameMagic(bytes.readUInt32LE(0)) ? 'member' : 'other';
  }

  hasHeader(): boolean {
    return true;
  }

  nextMember(): void {}

  async run(): Promise<boolean> {
    return this.ended(await callAsync(this.functions.decompress, this.context, this.to.bytes, this.from.bytes));
  }

  runHere(): boolean {
    return this.ended(Number(this.functions.decompress(this.context, this.to.bytes, this.from.bytes)));
  }

  free(): void {
    this.functions.free(this.context);
  }

  private ended(result: number): boolean {
    if (result === -MEMORY_ALLOCATION) throw outOfMemory('zstd');
    if (result === -WINDOW_TOO_LARGE) throw windowTooLarge(this.windowLog);
    if (result < 0) {
      throw new UnpackError('LAYER_CORRUPT', `the zstd data is corrupt: ${this.functions.errorName(result)}`);
    }
    return result === 0;
  }
}
