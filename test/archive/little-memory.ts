import { readFileSync } from 'node:fs';
import { decompress } from '../../src/archive/compression.ts';
import { UnpackError } from '../../src/errors.ts';
import { libc, systemError } from '../../src/system/libc.ts';
import { lent } from '../support/lent.ts';

/** Decompresses a frame with a window of 128 MiB while less memory is free: `little-memory.ts native|node`. */
const native = process.argv[2] === 'native';

// a frame (RFC 8878, 3.1.1) of one raw block, whose window descriptor says 2^27
const frame = (window: number): Buffer =>
  Buffer.concat([
    Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, (window - 10) << 3]),
    Buffer.from([(5 << 3) | 1, 0, 0]),
    Buffer.from('hello'),
  ]);

async function text(blob: Buffer): Promise<string> {
  const pieces: string[] = [];
  for await (const piece of decompress(lent(blob), { native })) pieces.push(piece.toString());
  return pieces.join('');
}

const before = await text(frame(20));

const RLIMIT_AS = 9;
const now = 1024 * Number(/^VmSize:\s*(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
const limit = Buffer.alloc(16);
limit.writeBigUInt64LE(BigInt(now + (64 << 20)), 0);
limit.writeBigUInt64LE(BigInt(now + (64 << 20)), 8);
const setrlimit = libc.func('int setrlimit(int, const void *)');
if (setrlimit(RLIMIT_AS, limit) !== 0) throw systemError('setrlimit');

try {
  const after = await text(frame(27));
  process.stdout.write(JSON.stringify({ before, after }));
} catch (error) {
  const { code, message } = error instanceof UnpackError ? error : { code: 'untyped', message: String(error) };
  process.stdout.write(JSON.stringify({ before, code, message }));
}
