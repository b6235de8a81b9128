import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { isalIn, isalInflater } from '../../src/archive/isal.ts';
import { nativeStatus, nativeWarnings } from '../../src/archive/native-status.ts';
import { zstdIn, zstdInflater } from '../../src/archive/zstd-native.ts';
import { libc } from '../../src/system/libc.ts';
import { opensslIn } from '../../src/system/stream-hash.ts';
import { libraryWith, libraryWithout } from '../support/broken-library.ts';

/** Decompressors that are missing or wrong are not used. `unpackd doctor` and the log of a worker report them. */
const openssl = opensslIn(libc);
const zstd = zstdIn(libc);
/** ISA-L may not be installed here, so these libraries do without it. */
const notInstalled = isalIn(() => {
  throw new Error('libisal.so.2: cannot open shared object file');
});
const withoutFunction = isalIn(() => libraryWithout(libc, 'no_function'));
const doesNothing = libraryWith({ func: () => libc.func('int close(int)') }, '', () => 0);
const wrongIsal = isalIn(() => doesNothing);
const missingZstd = zstdIn(libraryWithout(libc, 'ZSTD_decompressStream'));
const wrongZstd = zstdIn(libraryWith(libc, 'ZSTD_decompressStream', () => 0));

const uses = (statuses: ReturnType<typeof nativeStatus>) =>
  Object.fromEntries(statuses.map((one) => [one.work, one.uses]));

describe('native code that is broken', () => {
  it('is not used to decompress', () => {
    for (const isal of [notInstalled, withoutFunction, wrongIsal]) assert.equal(isalInflater(isal), undefined);
    for (const broken of [missingZstd, wrongZstd]) assert.equal(zstdInflater(27, broken), undefined);
    assert.deepEqual(
      [notInstalled, withoutFunction, wrongIsal, missingZstd, wrongZstd].map(({ problem }) => problem?.kind),
      ['missing', 'missing', 'wrong', 'missing', 'wrong'],
    );
  });

  it('is replaced by Node’s public API, with one warning for each', () => {
    const broken = { openssl: opensslIn(libraryWithout(libc, 'EVP_sha256')), isal: wrongIsal, zstd: missingZstd };
    const statuses = nativeStatus(true, broken);
    assert.deepEqual(uses(statuses), { digests: 'node:crypto', gzip: 'node:zlib', zstd: 'node:zlib' });
    const warnings = nativeWarnings(statuses);
    assert.equal(warnings.length, 3);
    assert.match(
      warnings[0] ?? '',
      /^digests: node:crypto is in use; .*OpenSSL inside Node cannot be used: .*EVP_sha256/,
    );
    assert.match(warnings[1] ?? '', /^gzip: node:zlib is in use; .*ISA-L cannot be used: .*wrong answer/);
    assert.match(warnings[2] ?? '', /^zstd: .*ZSTD_decompressStream.*; run unpackd with the Node/);
  });
});

describe('a worker gets no warning', () => {
  it('if ISA-L is not installed', () => {
    const statuses = nativeStatus(true, { openssl, isal: notInstalled, zstd });
    assert.match(statuses[1]?.why ?? '', /libisal2/);
    assert.deepEqual(nativeWarnings(statuses), []);
  });

  it('if UNPACK_NATIVE_INFLATE is false', () => {
    const statuses = nativeStatus(false, { openssl, isal: wrongIsal, zstd: missingZstd });
    assert.deepEqual(uses(statuses), { digests: 'the OpenSSL inside Node', gzip: 'node:zlib', zstd: 'node:zlib' });
    assert.deepEqual(nativeWarnings(statuses), []);
  });
});
