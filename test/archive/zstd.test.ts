import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { constants, zstdCompressSync } from 'node:zlib';
import { unzstd } from '../../src/archive/zstd.ts';
import { zstdInflater } from '../../src/archive/zstd-native.ts';
import { UnpackError } from '../../src/errors.ts';
import { digestOfOutput, inPieces, inTurn } from '../support/stream.ts';

const digest = (bytes: Buffer, cut: number, native: boolean, busy: () => boolean): Promise<string> =>
  digestOfOutput(unzstd(inPieces(bytes, cut), native, busy));

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
const CHECKSUM = { params: { [constants.ZSTD_c_checksumFlag]: 1 } };
const skippable = (payload: Buffer): Buffer => {
  const head = Buffer.from('5e2a4d1800000000', 'hex');
  head.writeUInt32LE(payload.length, 4);
  return Buffer.concat([head, payload]);
};

for (const [name, native, busy] of [
  ['Node’s stream', false, inTurn()],
  ['Node’s zstd called directly', true, () => false],
  ['Node’s zstd on this thread', true, () => true],
  ['Node’s zstd on both in turn', true, inTurn()],
] as const) {
  describe(`unzstd with ${name}`, { skip: native && zstdInflater() === undefined && 'Node does not offer it' }, () => {
    it('gives the same bytes however frames and pieces are cut, skippable frames among them', async () => {
      for (const length of [0, 1, 1000, 1 << 20, 3_333_333]) {
        const text = randomBytes(length);
        text.fill('text', 0, Math.floor(length / 2));
        const third = Math.floor(length / 3);
        const frames = [text.subarray(0, third), text.subarray(third, third), text.subarray(third)];
        const bytes = Buffer.concat([
          skippable(randomBytes(300)),
          ...frames.map((part) => zstdCompressSync(part, CHECKSUM)),
          skippable(Buffer.alloc(0)),
        ]);
        for (const cut of [997, 65_536, 10_000_000]) {
          assert.equal(await digest(bytes, cut, native, busy), sha256(text), `${length} bytes in pieces of ${cut}`);
        }
      }
    });

    it('reads ten thousand small frames', async () => {
      const frame = zstdCompressSync(Buffer.from('a small file'));
      const bytes = Buffer.concat(Array.from({ length: 10_000 }, () => frame));
      assert.equal(await digest(bytes, 65_536, native, busy), sha256(Buffer.from('a small file'.repeat(10_000))));
    });

    it('refuses what is cut short, damaged or followed by something else', async () => {
      const whole = zstdCompressSync(randomBytes(5000), CHECKSUM);
      const damaged = Buffer.from(whole);
      damaged[whole.length - 2] = (damaged[whole.length - 2] ?? 0) ^ 1;
      const broken = [
        whole.subarray(0, -1),
        whole.subarray(0, 3),
        damaged,
        Buffer.concat([whole, Buffer.from('x')]),
        Buffer.concat([whole, Buffer.alloc(600)]),
        Buffer.concat([whole, skippable(Buffer.alloc(9)).subarray(0, -1)]),
      ];
      for (const [index, bytes] of broken.entries()) {
        for (const cut of [1, 100_000]) {
          await assert.rejects(
            digest(bytes, cut, native, busy),
            (error) => error instanceof UnpackError && error.code === 'LAYER_CORRUPT',
            `case ${index} in pieces of ${cut}`,
          );
        }
      }
    });

    it('refuses a frame that wants more than 128 MiB for its window', async () => {
      // magic, a descriptor without sizes, a window of 2^31, one raw empty last block
      const bytes = Buffer.from('28b52ffd00a8010000', 'hex');
      await assert.rejects(digest(bytes, 100, native, busy), (error) => error instanceof UnpackError);
    });
  });
}

describe('zstd data for which there is no memory', () => {
  for (const how of ['native', 'node']) {
    it(`is the machine’s failure, not the layer’s: ${how}`, () => {
      const script = new URL('little-memory.ts', import.meta.url).pathname;
      const { stdout, stderr } = spawnSync(process.execPath, [script, how], { encoding: 'utf8' });
      const { before, code, message } = JSON.parse(stdout || JSON.stringify({ message: stderr }));
      assert.equal(before, 'hello', stderr);
      assert.equal(code, 'STORE_FAILED', message);
      assert.match(message, /no memory is left to decompress zstd data.*UNPACK_THREADS/);
    });
  }
});
