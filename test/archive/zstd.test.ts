import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { constants, zstdCompressSync } from 'node:zlib';
import { unzstd } from '../../src/archive/zstd.ts';
import { MAX_WINDOW, windowLogOf } from '../../src/archive/zstd-frames.ts';
import { zstdInflater } from '../../src/archive/zstd-native.ts';
import { UnpackError } from '../../src/errors.ts';
import { runChild } from '../support/child.ts';
import { cutOnce, lent } from '../support/lent.ts';
import { digestOfOutput, inTurn } from '../support/stream.ts';

const digest = (bytes: Buffer, cut: number, native: boolean, busy: () => boolean): Promise<string> =>
  digestOfOutput(unzstd(lent(bytes, cut), native, busy));

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
const CHECKSUM = { params: { [constants.ZSTD_c_checksumFlag]: 1 } };
const skippable = (payload: Buffer): Buffer => {
  const head = Buffer.from('5e2a4d1800000000', 'hex');
  head.writeUInt32LE(payload.length, 4);
  return Buffer.concat([head, payload]);
};

/** A frame (RFC 8878, 3.1.1) of one raw block, with a window of 2^windowLog bytes and some eighths more. */
const frameWithWindow = (windowLog: number, eighths = 0): Buffer =>
  Buffer.concat([
    Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, ((windowLog - 10) << 3) | eighths]),
    Buffer.from([(5 << 3) | 1, 0, 0]),
    Buffer.from('hello'),
  ]);

for (const [name, native, busy] of [
  ['Node’s stream', false, inTurn()],
  ['Node’s zstd called directly', true, () => false],
  ['Node’s zstd on this thread', true, () => true],
  ['Node’s zstd on both in turn', true, inTurn()],
] as const) {
  describe(`unzstd with ${name}`, {
    skip: native && zstdInflater(windowLogOf(MAX_WINDOW)) === undefined && 'Node does not offer it',
  }, () => {
    it('gives the same bytes for any split into frames and pieces, with skippable frames', async () => {
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

    it('reads frames that begin anywhere in a piece, also in its last bytes', async () => {
      const frames = ['first', 'second', '', 'last'].map((text) => zstdCompressSync(Buffer.from(text), CHECKSUM));
      const bytes = Buffer.concat(frames.flatMap((frame) => [skippable(Buffer.from('skip me')), frame]));
      let at = 0;
      for (const source of cutOnce(bytes)) {
        const found = await digestOfOutput(unzstd(source, native, busy));
        assert.equal(found, sha256(Buffer.from('firstsecondlast')), `cut at ${++at}`);
      }
    });

    it('reads ten thousand small frames', async () => {
      const frame = zstdCompressSync(Buffer.from('a small file'));
      const bytes = Buffer.concat(Array.from({ length: 10_000 }, () => frame));
      assert.equal(await digest(bytes, 65_536, native, busy), sha256(Buffer.from('a small file'.repeat(10_000))));
    });

    it('refuses data that are truncated, damaged or followed by other data', async () => {
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

    it('accepts windows up to 512 MiB, or up to the memory limit', async () => {
      for (const [windowLog, memory] of [
        [27, undefined],
        [29, undefined],
        [29, 1 << 30],
        [26, 100 << 20],
        [23, 1],
      ] as const) {
        const source = lent(frameWithWindow(windowLog), 100);
        const found = await digestOfOutput(unzstd(source, native, busy, memory));
        assert.equal(found, sha256(Buffer.from('hello')), `2^${windowLog} of ${memory}`);
      }
    });

    it('refuses larger windows, also of single-segment frames', async () => {
      for (const [bytes, memory, text] of [
        [frameWithWindow(29, 1), undefined, /more than 512 MiB/],
        [frameWithWindow(31), undefined, /more than 512 MiB/],
        [frameWithWindow(41), undefined, /more than 512 MiB/],
        [frameWithWindow(27), 100 << 20, /more than 64 MiB.*UNPACK_MAX_LAYER_MEMORY/],
        [frameWithWindow(24), 1, /more than 8 MiB/],
        // a content size of 2^30 and no window of its own
        [Buffer.from('28b52ffda00000004001000068', 'hex'), undefined, /more than 512 MiB/],
        // after a frame that is fine
        [Buffer.concat([frameWithWindow(20), frameWithWindow(31)]), undefined, /more than 512 MiB/],
      ] as const) {
        for (const cut of [1, 100]) {
          await assert.rejects(
            digestOfOutput(unzstd(lent(bytes, cut), native, busy, memory)),
            (error) => error instanceof UnpackError && error.code === 'LIMIT_EXCEEDED' && text.test(error.message),
            bytes.toString('hex'),
          );
        }
      }
    });

    it('gives the same error for any data after the last frame', async () => {
      const whole = zstdCompressSync(randomBytes(300), CHECKSUM);
      for (const rest of ['x', 'abc', '\x28\xb5\x2f', 'garbage!', '\0'.repeat(600)]) {
        for (const cut of [1, whole.length, whole.length + 1, 100_000]) {
          await assert.rejects(
            digest(Buffer.concat([whole, Buffer.from(rest, 'latin1')]), cut, native, busy),
            (error) =>
              error instanceof UnpackError &&
              error.code === 'LAYER_CORRUPT' &&
              /followed by bytes that are no zstd data/.test(error.message),
            JSON.stringify(rest),
          );
        }
      }
    });
  });
}

describe('zstd data with too little memory', () => {
  for (const how of ['native', 'node']) {
    it(`is STORE_FAILED and not LAYER_CORRUPT: ${how}`, () => {
      const script = new URL('little-memory.ts', import.meta.url).pathname;
      const { stdout, stderr } = runChild(process.execPath, [script, how]);
      const { before, code, message } = JSON.parse(stdout || JSON.stringify({ message: stderr }));
      assert.equal(before, 'hello', stderr);
      assert.equal(code, 'STORE_FAILED', message);
      assert.match(message, /no memory is left to decompress zstd data.*UNPACK_THREADS/);
    });
  }
});
