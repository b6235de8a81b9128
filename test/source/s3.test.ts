import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { FailureCode, UnpackError } from '../../src/errors.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { readBlob } from '../../src/source/read-blob.ts';
import type { BucketLayout, S3SourceSpec } from '../../src/source/source-spec.ts';
import { startTestBucket, type TestBucket } from '../support/bucket.ts';
import { runChild } from '../support/child.ts';
import { fails } from '../support/fails.ts';
import { type Fault, startFaultyProxy } from '../support/faulty-s3.ts';
import { buildImage } from '../support/image-builder.ts';

const digest = digestOf(Buffer.from('content'));
const hex = digest.slice(7);
const sha512 = digestOf(Buffer.from('content'), 'sha512');

describe('a bucket', () => {
  let bucket: TestBucket;
  before(async () => {
    bucket = await startTestBucket();
  });
  after(() => bucket.close());

  const withSource = async <T>(overrides: Partial<S3SourceSpec>, use: (source: ReturnType<typeof openSource>) => T) => {
    const source = openSource(bucket.spec(overrides));
    try {
      return await use(source);
    } finally {
      source.close();
    }
  };
  const read = (overrides: Partial<S3SourceSpec>, wanted = digest) =>
    withSource(overrides, async (source) => String(await readBlob(source, wanted, { limit: 100 })));
  const resolve = (overrides: Partial<S3SourceSpec>, tag: string, signal?: AbortSignal) =>
    withSource(overrides, (source) => source.resolveTag(tag, signal));

  describe('has blobs', () => {
    for (const [name, layout, key, wanted] of [
      ['of the layout oci', { kind: 'oci' }, `p/blobs/sha256/${hex}`, digest],
      ['of SHA-512', { kind: 'oci' }, `p/blobs/sha512/${sha512.slice(7)}`, sha512],
      [
        'of the layout distribution',
        { kind: 'distribution' },
        `p/docker/registry/v2/blobs/sha256/${hex.slice(0, 2)}/${hex}/data`,
        digest,
      ],
      [
        'under keys by a template',
        { kind: 'keys', template: 'x/{algorithm}-{hex}.blob' },
        `p/x/sha256-${hex}.blob`,
        digest,
      ],
    ] as const) {
      test(name, async () => {
        await bucket.put(key, 'content');
        assert.equal(await read({ layout, prefix: 'p' }, wanted), 'content');
      });
    }

    test('at its root, and below a prefix with slashes at both ends', async () => {
      await bucket.put(`blobs/sha256/${hex}`, 'content');
      await bucket.put(`a/b/blobs/sha256/${hex}`, 'content');
      for (const prefix of ['', '/', 'a/b', '/a/b/', 'a/b//']) assert.equal(await read({ prefix }), 'content');
    });
  });

  describe('has tags', () => {
    test('in the index.json of the layout oci', async () => {
      const image = await buildImage((bytes, mediaType) => bucket.putBlob(bytes, mediaType));
      const entry = { ...image, annotations: { 'org.opencontainers.image.ref.name': 'v1' } };
      await bucket.put('mirror/index.json', JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
      assert.deepEqual(await resolve({}, 'v1'), { ...entry, warnings: [] });
      await fails('IMAGE_NOT_FOUND', resolve({}, 'v2'));
      await fails('IMAGE_NOT_FOUND', resolve({ prefix: 'elsewhere' }, 'v1'));
    });

    test('in the link files of the layout distribution', async () => {
      const folder = 'docker/registry/v2/repositories/library/app/_manifests/tags';
      await bucket.put(`mirror/${folder}/v1/current/link`, digest);
      await bucket.put(`mirror/${folder}/bad/current/link`, 'sha256:../../etc/passwd');
      await bucket.put(`mirror/${folder}/long/current/link`, 'x'.repeat(2000));
      const layout = { kind: 'distribution', repository: 'library/app' } as const;
      assert.deepEqual(await resolve({ layout }, 'v1'), { digest });
      await fails('IMAGE_NOT_FOUND', resolve({ layout }, 'v2'));
      await fails('MANIFEST_INVALID', resolve({ layout }, 'bad'));
      await fails('LIMIT_EXCEEDED', resolve({ layout }, 'long'));
    });

    test('that are read again each time', async () => {
      const folder = 'mirror/docker/registry/v2/repositories/moved/_manifests/tags/v1/current';
      const source = openSource(bucket.spec({ layout: { kind: 'distribution', repository: 'moved' } }));
      try {
        for (const now of [digest, sha512, digest]) {
          await bucket.put(`${folder}/link`, now);
          assert.deepEqual(await source.resolveTag('v1'), { digest: now });
        }
      } finally {
        source.close();
      }
    });

    test('except in the layout keys', async () => {
      const error = await fails('INVALID_JOB', resolve({ layout: { kind: 'keys', template: '{hex}' } }, 'v1'));
      assert.match(error.message, /has no tags/);
    });

    test('and MANIFEST_INVALID for a damaged index', async () => {
      await bucket.put('damaged/index.json', '{');
      await fails('MANIFEST_INVALID', resolve({ prefix: 'damaged' }, 'v1'));
    });
  });

  describe('is protected from', () => {
    const refused = async (overrides: Partial<S3SourceSpec>) => {
      await fails('INVALID_JOB', (async () => openSource(bucket.spec(overrides)).close())());
    };

    for (const prefix of ['..', 'a/../b', './a', 'a//b', 'a/./b', 'a\\..\\b', 'a\u0000b', 'a\nb', '\ud800']) {
      test(`the prefix ${JSON.stringify(prefix)}`, () => refused({ prefix }));
    }
    for (const name of [
      '',
      '..',
      '../other',
      'a/b',
      'a..b',
      'a b',
      '-a',
      'arn:aws:s3:us-east-1:1:accesspoint/x',
      'a%2fb',
      'b?x',
    ]) {
      test(`the bucket ${JSON.stringify(name)}`, () => refused({ bucket: name }));
    }
    for (const template of ['', 'fixed', '{algorithm}', '../{hex}', '{hex}/{other}', '/{hex}', '{hex']) {
      test(`the template ${JSON.stringify(template)}`, () => refused({ layout: { kind: 'keys', template } }));
    }
    for (const tag of ['', '..', '../v1', 'a/b', '.a', '-a', 'a b', 'a\u0000', 'ä', 'x'.repeat(129)]) {
      test(`the tag ${JSON.stringify(tag.slice(0, 20))}`, async () => {
        const layout: BucketLayout = { kind: 'distribution', repository: 'app' };
        await fails('INVALID_JOB', resolve({ layout }, tag));
      });
    }
    for (const repository of [
      undefined,
      '',
      '..',
      '../x',
      'a/../b',
      'A',
      'a//b',
      '/a',
      'a/',
      'a_-b',
      'x'.repeat(300),
    ]) {
      test(`the repository ${JSON.stringify(repository?.slice(0, 20))}`, async () => {
        const layout: BucketLayout = { kind: 'distribution', ...(repository === undefined ? {} : { repository }) };
        await fails('INVALID_JOB', resolve({ layout }, 'v1'));
      });
    }
    test('a key that is longer than S3 allows', async () => {
      await fails('INVALID_JOB', read({ prefix: 'x'.repeat(1000) }));
    });
  });

  describe('that fails leads to', () => {
    for (const [status, code, expected] of [
      [403, 'AccessDenied', 'SOURCE_DENIED'],
      [403, 'InvalidAccessKeyId', 'SOURCE_DENIED'],
      [401, 'Unauthorized', 'SOURCE_DENIED'],
      [400, 'ExpiredToken', 'SOURCE_DENIED'],
      [301, 'PermanentRedirect', 'SOURCE_DENIED'],
      [404, 'NoSuchBucket', 'IMAGE_NOT_FOUND'],
      [404, 'NoSuchKey', 'BLOB_NOT_FOUND'],
      [412, 'PreconditionFailed', 'BLOB_DIGEST_MISMATCH'],
      [416, 'InvalidRange', 'BLOB_SIZE_MISMATCH'],
      [429, 'TooManyRequests', 'SOURCE_UNAVAILABLE'],
      [500, 'InternalError', 'SOURCE_UNAVAILABLE'],
      [503, 'SlowDown', 'SOURCE_UNAVAILABLE'],
      [503, 'ServiceUnavailable', 'SOURCE_UNAVAILABLE'],
    ] as const) {
      test(`${expected} for ${status} ${code}, with bucket and key in the message`, async () => {
        const error = await faulty({ kind: 'status', status, code }, expected);
        assert.match(error.message, /s3:\/\/images/);
        if (code !== 'NoSuchBucket') assert.match(error.message, new RegExp(hex));
        assert.equal(error.details.digest, digest);
        assert.ok(error.cause instanceof Error, 'the cause is kept');
        assert.doesNotMatch(error.message, /\n/);
      });
    }

    test('IMAGE_NOT_FOUND for a bucket that the server does not have', async () => {
      assert.match((await fails('IMAGE_NOT_FOUND', read({ bucket: 'nowhere' }))).message, /no bucket s3:\/\/nowhere/);
    });

    test('SOURCE_DENIED for credentials that the server refuses', async () => {
      const credentials = { accessKeyId: bucket.server.accessKeyId, secretAccessKey: 'wrong' };
      await fails('SOURCE_DENIED', read({ connection: bucket.connection({ credentials }) }));
      const unknown = { accessKeyId: 'nobody', secretAccessKey: 'wrong' };
      await fails('SOURCE_DENIED', read({ connection: bucket.connection({ credentials: unknown }) }));
    });

    test('SOURCE_DENIED if the AWS chain has no credentials', async () => {
      const saved = { ...process.env };
      for (const name of Object.keys(process.env)) if (name.startsWith('AWS_')) delete process.env[name];
      Object.assign(process.env, { AWS_EC2_METADATA_DISABLED: 'true', HOME: '/nonexistent' });
      try {
        const { credentials: _, ...connection } = bucket.connection();
        assert.match((await fails('SOURCE_DENIED', read({ connection }))).message, /no credentials/);
      } finally {
        Object.assign(process.env, saved);
      }
    });

    test('SOURCE_UNAVAILABLE after the connect timeout', async () => {
      // a listener whose queue of connections is full would do, but not on every kernel: 192.0.2.0/24 is nowhere
      const connection = bucket.connection({
        endpoint: 'http://192.0.2.1:9',
        connectTimeout: 200,
        idleTimeout: 400,
        maxResumes: 0,
      });
      const started = performance.now();
      await fails('SOURCE_UNAVAILABLE', read({ connection }));
      assert.ok(performance.now() - started < 60_000, 'the kernel gives up after two minutes');
    });

    async function faulty(fault: Fault, expected: FailureCode): Promise<UnpackError> {
      const proxy = await startFaultyProxy({ target: bucket.server.endpoint, rules: [{ fault }] });
      const connection = bucket.connection({ endpoint: proxy.endpoint, maxResumes: 0 });
      try {
        return await fails(expected, read({ connection }));
      } finally {
        await proxy.close();
      }
    }
  });

  test('is asked again for a tag if it is busy for a moment', async () => {
    await bucket.put('mirror/docker/registry/v2/repositories/app/_manifests/tags/v1/current/link', digest);
    const rules = [
      { fault: { kind: 'status', status: 503, code: 'SlowDown' }, times: 1 },
      { fault: { kind: 'drop', afterBytes: 10 }, times: 1 },
    ] as const;
    const proxy = await startFaultyProxy({ target: bucket.server.endpoint, rules });
    const connection = bucket.connection({ endpoint: proxy.endpoint });
    const layout = { kind: 'distribution', repository: 'app' } as const;
    assert.deepEqual(await resolve({ connection, layout }, 'v1'), { digest });
    assert.equal(proxy.seen.length, 3);
    await proxy.close();
  });

  test('can be opened on another thread', () => {
    assert.deepEqual(structuredClone(bucket.spec()), bucket.spec());
  });

  test('can be closed twice', () => {
    const source = openSource(bucket.spec());
    source.close();
    source.close();
  });
});

test('the SDK is loaded again after a failure for lack of open files', () => {
  const script = new URL('little-room.ts', import.meta.url).pathname;
  const asked = runChild('sh', ['-c', 'ulimit -n 60 && exec "$0" "$1"', process.execPath, script]);
  assert.equal(asked.stdout, 'none, a client', asked.stderr);
});
