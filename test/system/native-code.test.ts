import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, it } from 'node:test';
import { libc } from '../../src/system/libc.ts';
import { NativeCode } from '../../src/system/native-code.ts';
import { opensslIn, streamHash } from '../../src/system/stream-hash.ts';
import { libraryWith, libraryWithout } from '../support/broken-library.ts';

/** Native functions are used only after they passed their known-answer test. Otherwise Node's public API does the work. */
describe('native code', () => {
  it('is looked up and tested once, at its first use', () => {
    const calls: string[] = [];
    const code = new NativeCode(
      () => calls.push('looked up'),
      () => calls.push('tested') > 0,
    );
    assert.deepEqual(calls, []);
    assert.equal(code.functions, 1);
    assert.equal(code.functions, 1);
    assert.equal(code.problem, undefined);
    assert.deepEqual(calls, ['looked up', 'tested']);
  });

  it('is not tested again after it failed', () => {
    let tests = 0;
    const code = new NativeCode(
      () => 'functions',
      () => {
        tests += 1;
        throw new Error('no memory');
      },
    );
    assert.equal(code.functions, undefined);
    assert.deepEqual(code.problem, { kind: 'wrong', text: 'its known-answer test failed: no memory' });
    assert.equal(tests, 1);
  });
});

describe('digests without the OpenSSL inside Node', () => {
  const bytes = Buffer.alloc(200_000, 'content');
  const expected = createHash('sha256').update(bytes).digest('hex');

  const wrong = libraryWith(libc, 'EVP_DigestFinal_ex', (real, context, digest, length) => {
    const result: unknown = real(context, digest, length);
    if (digest instanceof Buffer) digest[31] = (digest[31] ?? 0) ^ 1;
    return result;
  });
  for (const [fault, library, kind, text] of [
    ['a function is missing', libraryWithout(libc, 'EVP_DigestUpdate'), 'missing', /EVP_DigestUpdate/],
    ['a digest is wrong', wrong, 'wrong', /wrong answer/],
    ['a function fails', libraryWith(libc, 'EVP_DigestUpdate', () => 0), 'wrong', /OpenSSL could not digest/],
  ] as const) {
    it(`are computed by node:crypto if ${fault}`, async () => {
      const openssl = opensslIn(library);
      assert.equal(openssl.functions, undefined);
      assert.equal(openssl.problem?.kind, kind);
      assert.match(openssl.problem?.text ?? '', text);
      using hash = streamHash('sha256', 'beside', openssl);
      await hash.updateBeside(bytes);
      assert.equal(hash.hex(), expected);
    });
  }
});
