import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { describe, it } from 'node:test';
import { streamHash } from '../../src/system/stream-hash.ts';

const PIECES = [0, 1, 63, 64, 65, 65_535, 65_536, 65_537, 3 << 20, 7].map((length) => randomBytes(length));
const WHERE = ['here', 'beside'] as const;

describe('the digest of a stream', () => {
  for (const algorithm of ['sha256', 'sha512'] as const) {
    const expected = createHash(algorithm).update(Buffer.concat(PIECES)).digest('hex');
    for (const where of WHERE) {
      it(`equals the digest of all bytes, ${algorithm}, ${where}`, async () => {
        using now = streamHash(algorithm, where);
        using beside = streamHash(algorithm, where);
        using mixed = streamHash(algorithm, where);
        for (const [index, piece] of PIECES.entries()) {
          now.update(piece);
          await beside.updateBeside(piece);
          if (index % 2 === 0) mixed.update(piece);
          else await mixed.updateBeside(piece);
        }
        assert.deepEqual([now.hex(), beside.hex(), mixed.hex()], [expected, expected, expected]);
      });
    }
  }

  it('is right for many streams at once', async () => {
    const digests = Array.from({ length: 40 }, async (_, index) => {
      using hash = streamHash('sha256', 'beside');
      for (const piece of PIECES.slice(index % 5)) await hash.updateBeside(piece);
      return hash.hex();
    });
    const expected = Array.from({ length: 40 }, (_, index) =>
      createHash('sha256')
        .update(Buffer.concat(PIECES.slice(index % 5)))
        .digest('hex'),
    );
    assert.deepEqual(await Promise.all(digests), expected);
  });

  it('is computed on another thread, without blocking this one', async () => {
    using hash = streamHash('sha256', 'beside');
    const large = Buffer.alloc(64 << 20);
    const digesting = hash.updateBeside(large);
    assert.throws(() => hash.update(Buffer.from('next')), /a piece is being digested/);
    assert.throws(() => hash.hex(), /a piece is being digested/);
    assert.throws(() => hash[Symbol.dispose](), /a piece is being digested/);
    await digesting;
    assert.equal(hash.hex(), createHash('sha256').update(large).digest('hex'));
  });

  it('can be abandoned, and can be read only once', () => {
    for (const where of WHERE) streamHash('sha256', where)[Symbol.dispose]();
    for (const where of WHERE) {
      using hash = streamHash('sha256', where);
      hash.hex();
      assert.throws(() => hash.hex());
      assert.throws(() => hash.update(Buffer.from('x')));
    }
  });
});
