import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import { gunzip } from '../../src/archive/gzip.ts';
import { isalInflater } from '../../src/archive/isal.ts';
import { UnpackError } from '../../src/errors.ts';
import { memberWithFields } from '../support/gzip.ts';
import { cutOnce, lent } from '../support/lent.ts';
import { skipFor } from '../support/present.ts';
import { digestOfOutput, inTurn } from '../support/stream.ts';

const FOLLOWED =
  'the gzip data is followed by bytes that are neither gzip data nor zeros: something has been appended to the blob, or its last bytes have been overwritten; build and push the layer again';

/** Bytes that compress to about a third, like typical files. */
function someBytes(length: number): Buffer {
  const bytes = randomBytes(length);
  for (let i = 0; i < length; i += 64) bytes.fill('text', i + 20, Math.min(length, i + 64));
  return bytes;
}

const digest = (bytes: Buffer, cut: number, native: boolean, busy: () => boolean): Promise<string> =>
  digestOfOutput(gunzip(lent(bytes, cut), native, busy));

for (const [name, native, busy] of [
  ['zlib', false, inTurn()],
  ['ISA-L', true, () => false],
  ['ISA-L on this thread', true, () => true],
  ['ISA-L on both in turn', true, inTurn()],
] as const) {
  describe(`gunzip with ${name}`, {
    skip: skipFor(native && isalInflater() === undefined && 'libisal2 is not installed'),
  }, () => {
    it('gives the same bytes for any split into members and pieces', async () => {
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

    it('reads a header with any optional fields, in pieces of any size', async () => {
      const texts = Array.from({ length: 32 }, (_, flags) => Buffer.from(`after the flags ${flags}`));
      const bytes = Buffer.concat(texts.map((text, flags) => memberWithFields(text, flags)));
      const expected = createHash('sha256').update(Buffer.concat(texts)).digest('hex');
      for (const cut of [1, 2, 3, 7, 13, 64, bytes.length]) {
        for (let again = 0; again < 3; again++) {
          assert.equal(await digest(bytes, cut, native, busy), expected, `in pieces of ${cut}`);
        }
      }
    });

    it('reads members that begin anywhere in a piece, also in its last bytes', async () => {
      for (const flags of [0, 4, 8, 2 | 4 | 8 | 16]) {
        // pieces of up to 128 bytes are copied anyway
        const texts = [randomBytes(200), randomBytes(200), Buffer.alloc(0), Buffer.from('last')];
        const bytes = Buffer.concat([...texts.map((text) => memberWithFields(text, flags)), Buffer.alloc(3)]);
        const expected = createHash('sha256').update(Buffer.concat(texts)).digest('hex');
        let at = 0;
        for (const source of cutOnce(bytes)) {
          assert.equal(await digestOfOutput(gunzip(source, native, busy)), expected, `flags ${flags}, cut at ${++at}`);
        }
      }
    });

    it('inflates a run of zeros a thousand times longer than its blob', async () => {
      const text = Buffer.alloc(50_000_000);
      const expected = createHash('sha256').update(text).digest('hex');
      assert.equal(await digest(gzipSync(text), 65_536, native, busy), expected);
    });

    it('refuses data that are truncated, damaged or followed by other data', async () => {
      const whole = gzipSync(someBytes(5000));
      const damaged = Buffer.from(whole);
      damaged[whole.length - 6] = (damaged[whole.length - 6] ?? 0) ^ 1;
      const broken = [
        whole.subarray(0, -1),
        whole.subarray(0, 12),
        damaged,
        Buffer.concat([whole, Buffer.from([0x1f, 0x8b])]),
        Buffer.concat([whole, whole.subarray(0, 9)]),
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

    it('gives the same error for any data after the last member', async () => {
      const whole = gzipSync(someBytes(300));
      for (const rest of [
        'x',
        'garbage!',
        '\x1f',
        '\x1f\x1f',
        '\x8b\x1f',
        '\0x',
        `${'\0'.repeat(600)}x`,
        'PK\x03\x04'.repeat(99),
      ]) {
        const bytes = Buffer.concat([whole, Buffer.from(rest, 'latin1')]);
        for (const cut of [1, whole.length - 1, whole.length, whole.length + 1, 100_000]) {
          await assert.rejects(
            digest(bytes, cut, native, busy),
            (error) => error instanceof UnpackError && error.code === 'LAYER_CORRUPT' && error.message === FOLLOWED,
            `${JSON.stringify(rest.slice(0, 20))} in pieces of ${cut}`,
          );
        }
      }
    });

    it('ends at once if the reader stops', async () => {
      const bytes = gzipSync(someBytes(10_000_000));
      for await (const piece of gunzip(lent(bytes, 65_536), native, busy)) {
        assert.ok(piece.length > 0);
        break;
      }
    });
  });
}
