import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { UnpackError } from '../../src/errors.ts';
import type { Descriptor } from '../../src/oci/descriptor.ts';
import type { BlobSource } from '../../src/source/blob-source.ts';
import { type FetchOptions, FetchStatistics, fetchBlob } from '../../src/source/fetch.ts';
import { GrantedBlobs } from '../../src/source/granted-blobs.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { readBlob } from '../../src/source/read-blob.ts';
import type { S3Connection } from '../../src/source/source-spec.ts';
import { startTestBucket, type TestBucket } from '../support/bucket.ts';
import { eventually } from '../support/eventually.ts';
import { fails } from '../support/fails.ts';
import { type FaultyProxy, startFaultyProxy } from '../support/faulty-s3.ts';
import { readAll } from '../support/lent.ts';

const MiB = 1024 * 1024;

describe('fetchBlob', () => suite(false));
describe('fetchBlob of a granted blob', () => suite(true));

/**
 * Reads by the source itself, as the main thread reads documents, or by a grant, as an apply thread reads a layer. With a grant,
 * chunks are hashed on another thread while they are used.
 */
function suite(isGranted: boolean): void {
  const granted = new GrantedBlobs();
  const content = randomBytes(3 * MiB);
  let bucket: TestBucket;
  let proxy: FaultyProxy;
  let blob: Descriptor;
  let source: BlobSource;

  before(async () => {
    bucket = await startTestBucket();
  });
  after(() => {
    granted.close();
    return bucket.close();
  });
  beforeEach(async () => {
    proxy = await startFaultyProxy({ target: bucket.server.endpoint });
    blob = await bucket.putBlob(content);
    source = open();
  });
  afterEach(async () => {
    source.close();
    await proxy.close();
  });

  const open = (overrides: Partial<S3Connection> = {}) =>
    openSource(bucket.spec({ connection: bucket.connection({ endpoint: proxy.endpoint, ...overrides }) }));
  const read = async (options: FetchOptions = {}, descriptor: Descriptor = blob) =>
    isGranted
      ? fetchBlob(granted.open(await source.grant(descriptor)), descriptor, { busy: () => false, ...options })
      : fetchBlob(source, descriptor, options);
  const collect = async (options: FetchOptions = {}, descriptor: Descriptor = blob) =>
    readAll(await read({ firstDelay: 5, ...options }, descriptor));

  test('returns the bytes of a blob', async () => {
    assert.ok((await collect()).equals(content));
    assert.equal(proxy.seen.length, 1);
  });

  test('returns an empty blob', async () => {
    const empty = await bucket.putBlob(Buffer.alloc(0));
    assert.equal((await collect({}, empty)).length, 0);
  });

  test('verifies a SHA-512 digest', async () => {
    const long = await bucket.putBlob(content, 'application/octet-stream', 'sha512');
    assert.ok((await collect({}, long)).equals(content));
  });

  test('continues from the last byte after a dropped connection, at any offset', async () => {
    proxy.rules([{ fault: { kind: 'drop', afterBytes: () => Math.floor(Math.random() * 1.5 * MiB) }, times: 3 }]);
    const statistics = new FetchStatistics();
    assert.ok((await collect({ statistics })).equals(content));
    assert.deepEqual(
      { bytes: statistics.bytes, requests: statistics.requests, resumes: statistics.resumes },
      { bytes: content.length, requests: proxy.seen.length, resumes: proxy.seen.length - 1 },
    );
    for (const { range, headers } of proxy.seen.slice(1)) {
      if (range === undefined) continue; // dropped before the first byte
      assert.match(range, /^bytes=\d+-$/);
      assert.ok(headers['if-match'] !== undefined, 'a resume names the object that it continues');
    }
  });

  test('repeats a request that was reset before an answer', async () => {
    proxy.rules([{ fault: { kind: 'reset' }, times: 2 }]);
    assert.ok((await collect()).equals(content));
  });

  for (const [status, code] of [
    [503, 'SlowDown'],
    [500, 'InternalError'],
    [429, 'TooManyRequests'],
    [400, 'RequestTimeout'],
  ] as const) {
    test(`continues after ${status} ${code}, at the start and midway`, async () => {
      proxy.rules([
        { fault: { kind: 'status', status, code }, times: 1 },
        { fault: { kind: 'drop', afterBytes: MiB }, times: 1 },
        { fault: { kind: 'status', status, code }, times: 1 },
      ]);
      assert.ok((await collect()).equals(content));
      assert.equal(proxy.seen.length, 4);
    });
  }

  test('continues after an error page that is not XML', async () => {
    proxy.rules([{ fault: { kind: 'status', status: 502, code: '', body: '<html>Bad Gateway' }, times: 1 }]);
    assert.ok((await collect()).equals(content));
  });

  test('continues after an answer that ends regularly, but too early', async () => {
    proxy.rules([{ fault: { kind: 'short', bytes: MiB }, times: 1 }]);
    assert.ok((await collect()).equals(content));
  });

  test('continues after the idle timeout of a connection', async () => {
    source.close();
    source = open({ idleTimeout: 150 });
    proxy.rules([
      { fault: { kind: 'stall', afterBytes: MiB }, times: 1 },
      { fault: { kind: 'silence' }, times: 1 },
    ]);
    const statistics = new FetchStatistics();
    assert.ok((await collect({ statistics })).equals(content));
    assert.ok(statistics.waitMs >= 300, `${statistics.waitMs} ms of waiting`);
  });

  test('accepts all bytes of an answer whose end is missing', async () => {
    proxy.rules([{ fault: { kind: 'drop', afterBytes: content.length, noLength: true } }]);
    assert.ok((await collect()).equals(content));
    assert.equal(proxy.seen.length, 1);
  });

  test('skips the bytes that it has if a server ignores Range and sends everything', async () => {
    proxy.rules([
      { fault: { kind: 'drop', afterBytes: MiB + 17 }, times: 1 },
      { fault: { kind: 'ignore-range' }, times: 1 },
    ]);
    const statistics = new FetchStatistics();
    assert.ok((await collect({ statistics })).equals(content));
    assert.equal(statistics.bytes, content.length);
  });

  test('does not count the time of a busy consumer for the idle timeout', async () => {
    source.close();
    source = open({ idleTimeout: 2000 });
    let got = 0;
    let busy = 0;
    const statistics = new FetchStatistics();
    const began = performance.now();
    for await (const chunk of await read({ statistics })) {
      // synchronous work, as an apply thread does it, and then an asynchronous pause
      const taken = performance.now();
      if (got === 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2500);
      if (got === 0) await sleep(2500);
      got += chunk.length;
      busy += performance.now() - taken;
    }
    assert.equal(got, content.length);
    assert.equal(statistics.resumes, 0);
    const rest = performance.now() - began - busy;
    assert.ok(
      statistics.waitMs <= rest + 1,
      `of the consumer's ${busy} ms some count as waiting: ${statistics.waitMs}`,
    );
  });

  test('does not count the time of a blocked thread for the idle timeout', async () => {
    source.close();
    source = open({ idleTimeout: 200 });
    const statistics = new FetchStatistics();
    const collected = collect({ statistics });
    for (let i = 0; i < 3; i += 1) {
      await sleep(10);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
    }
    assert.ok((await collected).equals(content));
  });

  test('fails after the maximum of resumes in a row, and reports their number', async () => {
    proxy.rules([{ fault: { kind: 'drop', afterBytes: 0 } }]);
    const statistics = new FetchStatistics();
    const error = await fails('SOURCE_UNAVAILABLE', collect({ maxResumes: 2, statistics }));
    assert.match(error.message, /after 2 retries/);
    assert.equal(error.details.digest, blob.digest);
    assert.equal(statistics.requests, 3);
  });

  test('resumes without a limit while it makes progress', { skip: isGranted && 'it is read in ranges' }, async () => {
    const big = randomBytes(40 * MiB);
    const descriptor = await bucket.putBlob(big);
    proxy.rules([{ fault: { kind: 'drop', afterBytes: 9 * MiB } }]);
    assert.ok((await collect({ maxResumes: 1 }, descriptor)).equals(big));
    assert.equal(proxy.seen.length, 5);
  });

  test('fails at once with BLOB_NOT_FOUND for a missing blob', async () => {
    const missing = { ...blob, digest: `sha256:${'0'.repeat(64)}` as Descriptor['digest'] };
    const error = await fails('BLOB_NOT_FOUND', collect({}, missing));
    assert.match(error.message, /s3:\/\/images\/mirror\/blobs\/sha256\/0{64}/);
    assert.equal(proxy.seen.length, 1);
  });

  test('fails at once with SOURCE_DENIED for 403', async () => {
    proxy.rules([{ fault: { kind: 'status', status: 403, code: 'AccessDenied' } }]);
    await fails('SOURCE_DENIED', collect());
    assert.equal(proxy.seen.length, 1);
  });

  test('fails with SOURCE_UNAVAILABLE if nothing listens', async () => {
    const gone = await startFaultyProxy({ target: bucket.server.endpoint });
    await gone.close();
    source.close();
    source = open({ endpoint: gone.endpoint });
    const error = await fails('SOURCE_UNAVAILABLE', collect({ maxResumes: 1 }));
    assert.match(error.message, /connection refused/);
  });

  test('fails with SOURCE_UNAVAILABLE if the name does not resolve', async () => {
    source.close();
    source = open({ endpoint: 'http://no-such-host.invalid:9000' });
    await fails('SOURCE_UNAVAILABLE', collect({ maxResumes: 0 }));
  });

  test('fails with SOURCE_UNAVAILABLE after repeated idle timeouts', async () => {
    source.close();
    source = open({ idleTimeout: 100 });
    proxy.rules([{ fault: { kind: 'silence' } }]);
    const error = await fails('SOURCE_UNAVAILABLE', collect({ maxResumes: 1 }));
    assert.match(error.message, /no answer came for 0\.1 s/);
  });

  test('refuses another size of the source before the first byte', async () => {
    for (const size of [content.length - 1, content.length + 1]) {
      let chunks = 0;
      const reading = collect({ onBytes: () => (chunks += 1) }, { ...blob, size });
      const error = await fails('BLOB_SIZE_MISMATCH', reading);
      assert.match(error.message, new RegExp(`should be ${size} bytes and the source has ${content.length}`));
      assert.equal(chunks, 0);
    }
  });

  test('refuses a Content-Length that is too small or too large', async () => {
    for (const by of [1000, -1000]) {
      proxy.rules([{ fault: { kind: 'wrong-length', by } }]);
      await fails('BLOB_SIZE_MISMATCH', collect());
    }
  });

  test('refuses the first byte too many of an answer without a size', async () => {
    proxy.rules([{ fault: { kind: 'long', bytes: 64 * MiB } }]);
    let got = 0;
    await fails('BLOB_SIZE_MISMATCH', collect({ onBytes: (count) => (got += count) }));
    assert.ok(got <= content.length);
  });

  test('refuses bytes with another digest', async () => {
    proxy.rules([{ fault: { kind: 'corrupt', at: 2 * MiB } }]);
    const error = await fails('BLOB_DIGEST_MISMATCH', collect());
    assert.equal(error.details.expected, blob.digest);
    assert.match(error.details.actual ?? '', /^sha256:[0-9a-f]{64}$/);
  });

  test('refuses an object that was replaced during the download', async () => {
    const key = `mirror/blobs/sha256/${blob.digest.slice(7)}`;
    proxy.rules([
      { fault: { kind: 'drop', afterBytes: MiB }, times: 1 },
      { fault: { kind: 'trickle', bytes: MiB, everyMs: 0 }, before: () => bucket.put(key, randomBytes(3 * MiB)) },
    ]);
    const error = await fails('BLOB_DIGEST_MISMATCH', collect());
    assert.match(error.message, /replaced while it was read/);
  });

  test('refuses a replaced object also if the server does not support If-Match', async () => {
    const key = `mirror/blobs/sha256/${blob.digest.slice(7)}`;
    proxy.rules([
      { fault: { kind: 'drop', afterBytes: MiB }, times: 1 },
      { fault: { kind: 'ignore-range' }, before: () => bucket.put(key, randomBytes(3 * MiB)) },
    ]);
    const error = await fails('BLOB_DIGEST_MISMATCH', collect());
    assert.match(error.message, /replaced while it was read/);
  });

  for (const [when, rules] of [
    ['before the answer', [{ fault: { kind: 'silence' } }]],
    ['in the middle of the answer', [{ fault: { kind: 'stall', afterBytes: MiB } }]],
    ['between two requests', [{ fault: { kind: 'status', status: 503, code: 'SlowDown' } }]],
  ] as const) {
    test(`stops after an abort ${when}, and closes the connection`, async () => {
      proxy.rules(rules);
      source.close();
      // only the abort can end it, because all timeouts are an hour
      source = open({ idleTimeout: 3_600_000, connectTimeout: 3_600_000 });
      const abort = new AbortController();
      const reading = collect({ signal: abort.signal, firstDelay: 3_600_000 });
      await eventually('the request and the bytes of the answer are sent', () =>
        when === 'in the middle of the answer' ? proxy.sent() >= MiB : proxy.seen.length > 0,
      );
      await sleep(50);
      abort.abort(new UnpackError('TIMED_OUT', 'the attempt took too long'));
      await fails('TIMED_OUT', reading);
      source.close();
      // the connection of a complete answer may be reused, until its owner is closed
      const left = isGranted && when === 'between two requests' ? 1 : 0;
      await eventually('no other connection is left', () => proxy.connections() === left);
    });
  }

  test('closes the connection after an abort while its consumer is busy', async () => {
    const abort = new AbortController();
    proxy.rules([{ fault: { kind: 'stall', afterBytes: MiB } }]);
    const reading = await read({ signal: abort.signal });
    await reading.next();
    abort.abort();
    await eventually('no connection is left', () => proxy.connections() === 0);
    await fails('INTERNAL', reading.next());
  });

  test('sends no request if it is already aborted', async () => {
    await fails('INTERNAL', collect({ signal: AbortSignal.abort() }));
    assert.equal(proxy.seen.length, 0);
  });

  test('closes the connection if its consumer stops early', async () => {
    proxy.rules([{ fault: { kind: 'stall', afterBytes: MiB } }]);
    for await (const _ of await read()) break;
    await eventually('no connection is left', () => proxy.connections() === 0);
  });

  test('reuses a connection for the next blob', async () => {
    await collect();
    await collect();
    assert.equal(proxy.connections(), 1);
  });

  test('reads at most a few MiB ahead of its consumer', async () => {
    const big = await bucket.putBlob(randomBytes(64 * MiB));
    const reading = await read({}, big);
    await reading.next();
    await sleep(300);
    // some megabytes of this are in the kernel's buffers on both sides
    assert.ok(proxy.sent() < 24 * MiB, `${proxy.sent()} bytes were sent`);
    await reading.return();
  });

  describe('readBlob', { skip: isGranted && 'documents are read by the source itself' }, () => {
    test('reads a small document by its digest', async () => {
      const document = await bucket.putBlob(Buffer.from('{}'));
      assert.equal(String(await readBlob(source, document.digest, { limit: 10 })), '{}');
    });

    test('continues a document with only the size of the source', async () => {
      proxy.rules([{ fault: { kind: 'drop', afterBytes: MiB }, times: 1 }]);
      assert.ok((await readBlob(source, blob.digest, { limit: 8 * MiB, firstDelay: 5 })).equals(content));
    });

    test('sends no request if the size in the descriptor is over the limit', async () => {
      await fails('LIMIT_EXCEEDED', readBlob(source, blob, { limit: MiB }));
      assert.equal(proxy.seen.length, 0);
    });

    test('stops at the limit, with and without a size of the source', async () => {
      await fails('LIMIT_EXCEEDED', readBlob(source, blob.digest, { limit: MiB }));
      proxy.rules([{ fault: { kind: 'long', bytes: 0 } }]);
      await fails('LIMIT_EXCEEDED', readBlob(source, blob.digest, { limit: MiB }));
    });

    test('refuses a document with another digest', async () => {
      proxy.rules([{ fault: { kind: 'corrupt', at: 5 } }]);
      await fails('BLOB_DIGEST_MISMATCH', readBlob(source, blob.digest, { limit: 8 * MiB }));
    });
  });
}
