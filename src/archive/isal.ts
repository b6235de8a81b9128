import { gzipSync } from 'node:zlib';
import koffi from 'koffi';
import { UnpackError } from '../errors.ts';
import { libc } from '../system/libc.ts';

/**
 * Intel's ISA-L (Debian package `libisal2`), which inflates about twice as fast as zlib. It is used where it is
 * installed; its library is called in this process, so that no bytes go through a pipe.
 *
 * These are the places of the fields of `struct inflate_state` (igzip_lib.h) on 64-bit machines. They are part of the
 * ABI of libisal.so.2; what is loaded must pass a test before it is believed.
 */
const FIELD = { nextOut: 0, availOut: 8, nextIn: 16, availIn: 32, blockState: 21_160, crcFlag: 21_172 } as const;
/** More than the 87 368 bytes of today: later minor versions may append fields. */
const STATE_BYTES = 128 * 1024;
const GZIP_WITH_CHECKSUM = 1;
const BLOCK_FINISHED = 5;
const LIBRARY = 'libisal.so.2';

interface Functions {
  readonly init: (state: Buffer) => void;
  readonly reset: (state: Buffer) => void;
  readonly inflate: ((state: Buffer) => number) & {
    async(state: Buffer, done: (error: unknown, result: number) => void): void;
  };
  readonly address: (bytes: Uint8Array) => bigint;
}

let loaded: Functions | undefined | null = null;

/** Whether gzip layers are inflated by ISA-L on this machine. */
export function hasIsal(): boolean {
  return functions() !== undefined;
}

function functions(): Functions | undefined {
  if (loaded === null) loaded = load();
  return loaded;
}

function load(): Functions | undefined {
  try {
    const library = koffi.load(LIBRARY);
    const memory = libc.func('uint64 memcpy(const void *, const void *, uint64)');
    const found: Functions = {
      init: library.func('void isal_inflate_init(void *)'),
      reset: library.func('void isal_inflate_reset(void *)'),
      inflate: library.func('int isal_inflate(void *)'),
      // a copy of nothing answers with the address of its target
      address: (bytes) => BigInt(memory(bytes, bytes, 0)),
    };
    return passesTest(found) ? found : undefined;
  } catch {
    return undefined; // not installed
  }
}

function passesTest(found: Functions): boolean {
  const text = Buffer.from('what is inflated must be what was deflated. '.repeat(100));
  const input = Buffer.concat([gzipSync(text), Buffer.alloc(9)]);
  const output = Buffer.alloc(8192);
  const inflater = new IsalInflater(found);
  inflater.input(input);
  inflater.output(output);
  const ended = inflater.runNow();
  return ended && inflater.unread === 9 && output.subarray(0, output.length - inflater.room).equals(text);
}

/** One gzip stream on its way through ISA-L. The buffers given to it must stay as they are while it runs. */
export class IsalInflater {
  private readonly state = Buffer.alloc(STATE_BYTES);
  private readonly functions: Functions;

  /** @throws Error where ISA-L is not installed: ask `hasIsal` before */
  constructor(from = functions()) {
    if (from === undefined) throw new Error(`${LIBRARY} is not installed`);
    this.functions = from;
    from.init(this.state);
    this.state.writeUInt32LE(GZIP_WITH_CHECKSUM, FIELD.crcFlag);
  }

  /** Bytes of the input that were not taken. */
  get unread(): number {
    return this.state.readUInt32LE(FIELD.availIn);
  }

  /** Bytes of the output that are still free. */
  get room(): number {
    return this.state.readUInt32LE(FIELD.availOut);
  }

  input(bytes: Buffer): void {
    this.state.writeBigUInt64LE(this.functions.address(bytes), FIELD.nextIn);
    this.state.writeUInt32LE(bytes.length, FIELD.availIn);
  }

  output(bytes: Buffer): void {
    this.state.writeBigUInt64LE(this.functions.address(bytes), FIELD.nextOut);
    this.state.writeUInt32LE(bytes.length, FIELD.availOut);
  }

  /** Expects the header of another member. */
  nextMember(): void {
    this.functions.reset(this.state);
  }

  /**
   * Inflates on another thread until the input is taken, the output is full, or the member has ended, which is what it
   * resolves with.
   * @throws UnpackError LAYER_CORRUPT
   */
  run(): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.functions.inflate.async(this.state, (error, result) => {
        if (error !== null) reject(error);
        else if (result < 0) reject(corrupt(result));
        else resolve(this.ended());
      });
    });
  }

  runNow(): boolean {
    const result = this.functions.inflate(this.state);
    if (result < 0) throw corrupt(result);
    return this.ended();
  }

  private ended(): boolean {
    return this.state.readUInt32LE(FIELD.blockState) === BLOCK_FINISHED;
  }
}

const REASONS: Readonly<Record<number, string>> = {
  [-1]: 'invalid deflate block',
  [-2]: 'invalid deflate symbol',
  [-3]: 'a reference to before its start',
  [-4]: 'incorrect header check',
  [-5]: 'unknown compression method',
  [-6]: 'incorrect data check',
};

function corrupt(result: number): UnpackError {
  return new UnpackError('LAYER_CORRUPT', `the gzip data is corrupt: ${REASONS[result] ?? `error ${result}`}`);
}
