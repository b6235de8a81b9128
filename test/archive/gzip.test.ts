import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import { gunzip } from '../../src/archive/gzip.ts';
import { isalInflater } from '../../src/archive/isal.ts';
import { UnpackError } from '../../src/errors.ts';
import { memberWithFields } from '../support/gzip.ts';
import { skipFor } from '../support/present.ts';
import { digestOfOutput, inPieces, inTurn } from '../support/stream.ts';

/** Bytes that deflate to about a third, as files do. */
function someBytes(length: number): Buffer {
  const bytes = randomBytes(length);
  for (let i = 0; i < length; i += 64) bytes.fill('text', i + 20, Math.min(length, i + 64));
  return bytes;
}

const digest = (bytes: Buffer, cut: number, native: boolean, busy: () => boolean): Promise<string> =>
  digestOfOutput(gunzip(inPieces(bytes, cut), native, busy));

for (const [name, native, busy] of [
  ['zlib', false, inTurn()],
  ['ISA-L', true, () => false],
  ['ISA-L on this thread', true, () => true],
  ['ISA-L on both in turn', true, inTurn()],
] as const) {
  describe(`gunzip with ${name}`, {
    skip: skipFor(native && isalInflater() === undefined && 'libisal2 is not installed'),
  }, () => {
    it('gives the same bytes however members and pieces are cut', async () => {
      const mebi = 1 << 20;
      for (const length of [0, 1, 1000, mebi - 1, mebi, mebi + 1, 2 * mebi, 3_333_333]) {
        const text = someBytes(length);
        const expected = createHash('sha256').update(text).digest('hex');
        const third = Math.floor(length / 3);
        const members = [text.subarray(0, third), text.subarray(third, third), text.subarray(third)];
        const bytes = Buffer.concat([...members.map((part) => gzipSync(part)), Buffer.alloc(700)]);
        for (const cut of [997, 65_536, 10_000_000]) {
          assert.equal(await digest(bytes, cut, native, busy), expected, `${length} bytes in pieces of ${cut}`);
        }
      }
    });

    it('reads a header with any of its fields, however it is cut', async () => {
      const texts = Array.from({ length: 32 }, (_, flags) => Buffer.from(`after the flags ${flags}`));
      const bytes = Buffer.concat(texts.map((text, flags) => memberWithFields(text, flags)));
      const expected = createHash('sha256').update(Buffer.concat(texts)).digest('hex');
      for (const cut of [1, 2, 3, 7, 13, 64, bytes.length]) {
        for (let again = 0; again < 3; again++) {
          assert.equal(await digest(bytes, cut, native, busy), expected, `in pieces of ${cut}`);
        }
      }
    });

    it('inflates a run of zeros a thousand times longer than its blob', async () => {
      const text = Buffer.alloc(50_000_000);
      const expected = createHash('sha256').update(text).digest('hex');
      assert.equal(await digest(gzipSync(text), 65_536, native, busy), expected);
    });

    it('refuses what is cut short, damaged or followed by something else', async () => {
      const whole = gzipSync(someBytes(5000));
      const damaged = Buffer.from(whole);
      damaged[whole.length - 6] = (damaged[whole.length - 6] ?? 0) ^ 1;
      const broken = [
        whole.subarray(0, -1),
        whole.subarray(0, 12),
        damaged,
        Buffer.concat([whole, Buffer.from('x')]),
        Buffer.concat([whole, Buffer.alloc(600), Buffer.from('x')]),
      ];
      for (const bytes of broken) {
        for (const cut of [1, 100_000]) {
          await assert.rejects(digest(bytes, cut, native, busy), (error) => {
            assert.ok(error instanceof UnpackError);
            assert.equal(error.code, 'LAYER_CORRUPT');
            return true;
          });
        }
      }
    });

    it('ends at once when nobody reads on', async () => {
      const bytes = gzipSync(someBytes(10_000_000));
      for await (const piece of gunzip(inPieces(bytes, 65_536), native, busy)) {
        assert.ok(piece.length > 0);
        break;
      }
    });
  });
}
