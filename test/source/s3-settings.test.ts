import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { loadConfig } from '../../src/config.ts';
import { ConfigError } from '../../src/errors.ts';
import { digestOf, hexOf } from '../../src/oci/digest.ts';
import { openUploader } from '../../src/push/uploader.ts';
import { s3Connection, s3Connections } from '../../src/s3-settings.ts';
import { connectionFor } from '../../src/source/bucket-endpoints.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { readBlob } from '../../src/source/read-blob.ts';
import { BUCKET, startTestBucket } from '../support/bucket.ts';
import { fails } from '../support/fails.ts';
import { type SeenRequest, startFaultyProxy } from '../support/faulty-s3.ts';
import { refuse, startOddS3 } from '../support/odd-s3.ts';
import { scratch } from '../support/scratch.ts';

const MiB = 1024 * 1024;
const place = scratch();
after(() => place[Symbol.dispose]());
const file = (name: string, text: string): string => {
  const path = join(place.path, name);
  writeFileSync(path, text);
  return path;
};
const connections = (env: Record<string, string>) => s3Connections(loadConfig({}, env), { HOME: place.path, ...env });

describe('the connection to S3', () => {
  const AWS_CONFIG_FILE = file(
    'config',
    `[default]
region = eu-west-1
[profile mirror]  # a comment
region = eu-north-1
endpoint_url = http://profile:9000
ca_bundle = /etc/mirror.pem
services = local
[services local]
s3 =
  endpoint_url = http://service:9000
`,
  );
  const of = (env: Record<string, string>) => {
    const connection = s3Connection(loadConfig({}, env), { HOME: place.path, AWS_CONFIG_FILE, ...env });
    return [connection.region, connection.endpoint, connection.caBundle?.path];
  };
  const AWS_PROFILE = 'mirror';
  const cases: readonly [string, Record<string, string>, (string | undefined)[]][] = [
    ['the default profile', {}, ['eu-west-1', undefined, undefined]],
    ['AWS_PROFILE', { AWS_PROFILE }, ['eu-north-1', 'http://service:9000', '/etc/mirror.pem']],
    ['no such profile', { AWS_PROFILE: 'other' }, ['us-east-1', undefined, undefined]],
    [
      'variables before the profile',
      { AWS_PROFILE, AWS_REGION: 'r', AWS_ENDPOINT_URL: 'http://all', AWS_CA_BUNDLE: '/ca.pem' },
      ['r', 'http://all', '/ca.pem'],
    ],
    [
      'the variable of S3 first',
      { AWS_ENDPOINT_URL: 'http://all', AWS_ENDPOINT_URL_S3: 'http://s3' },
      ['eu-west-1', 'http://s3', undefined],
    ],
    [
      'S3_ENDPOINT before all',
      { AWS_ENDPOINT_URL_S3: 'http://s3', S3_ENDPOINT: 'http://own' },
      ['eu-west-1', 'http://own', undefined],
    ],
    [
      'ignored endpoints',
      { AWS_PROFILE, AWS_IGNORE_CONFIGURED_ENDPOINT_URLS: 'true' },
      ['eu-north-1', undefined, '/etc/mirror.pem'],
    ],
  ];
  for (const [what, env, expected] of cases)
    test(`has the values of: ${what}`, () => assert.deepEqual(of(env), expected));
});

describe('UNPACK_S3_ENDPOINTS', () => {
  test('gives the connection of the first entry that matches, or the general one', () => {
    const endpoints = [
      { bucket: 'mirror-eu', endpoint: 'http://eu:9000', region: 'eu', profile: 'p', requesterPays: true },
      { bucket: 'mirror-*', endpoint: 'http://all:9000', pathStyle: false },
      { bucket: 'aws', region: 'us-west-2' },
    ];
    const UNPACK_S3_ENDPOINTS = file('endpoints.json', JSON.stringify({ endpoints }));
    const all = connections({ UNPACK_S3_ENDPOINTS, S3_ENDPOINT: 'http://general:9000' });
    const of = (bucket: string) => {
      const { endpoint, region, profile, forcePathStyle, requesterPays } = connectionFor(all, bucket);
      return [endpoint, region, profile, forcePathStyle, requesterPays];
    };
    assert.deepEqual(of('mirror-eu'), ['http://eu:9000', 'eu', 'p', true, true]);
    assert.deepEqual(of('mirror-us'), ['http://all:9000', 'us-east-1', undefined, false, undefined]);
    assert.deepEqual(of('aws'), [undefined, 'us-west-2', undefined, false, undefined]);
    assert.deepEqual(of('my-mirror-eu'), ['http://general:9000', 'us-east-1', undefined, true, undefined]);
  });

  const faults: readonly [string, string, RegExp][] = [
    ['is not JSON', '{\n  "endpoints": [\n    x', /faulty\.json, line 3: this is not JSON/],
    ['is another document', '[]', /faulty\.json: write \{"endpoints"/],
    ['has an entry without a bucket', '{"endpoints": [{}]}', /entry 1, field "bucket": write the name of a bucket/],
    [
      'has a wrong endpoint',
      '{"endpoints": [{"bucket": "a", "endpoint": "a"}]}',
      /entry 1, field "endpoint": write http/,
    ],
    [
      'has a bucket twice',
      '{"endpoints": [{"bucket": "a"}, {"bucket": "b"}, {"bucket": "a"}]}',
      /entry 3, field "bucket": a has entry 1 already/,
    ],
    [
      'has an entry that an earlier one hides',
      '{"endpoints": [{"bucket": "mirror-*"}, {"bucket": "mirror-eu-*"}]}',
      /entry 2, field "bucket": this entry is never used, because entry 1 \(mirror-\*\) matches the same buckets/,
    ],
    [
      'has an unknown field',
      '{"endpoints": [{"bucket": "a", "regoin": "a"}]}',
      /field "regoin": there is no such field/,
    ],
    [
      'has a secret',
      '{"endpoints": [{"bucket": "a", "secretAccessKey": "hidden"}]}',
      /secrets do not belong into this/,
    ],
  ];
  for (const [what, text, message] of faults) {
    test(`is refused with a sentence if it ${what}`, () => {
      const UNPACK_S3_ENDPOINTS = file('faulty.json', text);
      assert.throws(
        () => connections({ UNPACK_S3_ENDPOINTS }),
        (error) => error instanceof ConfigError && message.test(error.message) && !error.message.includes('hidden'),
      );
    });
  }
});

test('an endpoint of a variable or a profile that is not a URL is refused with its name', () => {
  const AWS_CONFIG_FILE = file('bad-endpoint', '[default]\nendpoint_url = minio:9000\n');
  for (const [env, name] of [
    [{ AWS_ENDPOINT_URL_S3: 'minio:9000' }, 'AWS_ENDPOINT_URL_S3'],
    [{ AWS_CONFIG_FILE }, `endpoint_url of the profile default in ${AWS_CONFIG_FILE}`],
  ] as const) {
    assert.throws(() => connections(env), new ConfigError(`${name}: write http://host:port or https://host`));
  }
});

const layout = { kind: 'distribution', repository: 'app' } as const;
const link = `sha256:${'a'.repeat(64)}`;
const objects = new Map([['docker/registry/v2/repositories/app/_manifests/tags/v1/current/link', Buffer.from(link)]]);

describe('a bucket whose requester pays', () => {
  const agrees = ({ headers, query }: SeenRequest) =>
    headers['x-amz-request-payer'] === 'requester' || query.get('x-amz-request-payer') === 'requester';
  /** Pushes a blob in parts, looks at it, and reads it with a connection that is cut. */
  const use = async (env: Record<string, string>) => {
    const bucket = await startTestBucket();
    const denied = { kind: 'status', status: 403, code: 'AccessDenied' } as const;
    const proxy = await startFaultyProxy({
      target: bucket.server.endpoint,
      rules: [
        { fault: denied, when: (request) => !agrees(request) },
        { fault: { kind: 'drop', afterBytes: MiB }, when: ({ method }) => method === 'GET', times: 1 },
      ],
    });
    const { accessKeyId, secretAccessKey } = bucket.server;
    const settings = { S3_ENDPOINT: proxy.endpoint, ...env };
    const connection = { ...connections(settings).connection, credentials: { accessKeyId, secretAccessKey } };
    const uploader = openUploader(connection, BUCKET, {});
    const source = openSource({ kind: 's3', bucket: BUCKET, prefix: '', layout: { kind: 'oci' }, connection });
    try {
      const content = Buffer.alloc(17 * MiB, 'blob ');
      const blob = { mediaType: '', digest: digestOf(content), size: content.length };
      const key = `blobs/sha256/${hexOf(blob.digest)}`;
      const read = async (offset: number, length: number) => content.subarray(offset, offset + length);
      await uploader.putBlob(key, blob, { size: blob.size, read });
      assert.equal(await uploader.has(key, blob.size), true);
      assert.ok((await readBlob(source, blob, { limit: 32 * MiB })).equals(content));
      return new Set(proxy.seen.map(({ method, range }) => `${method}${range === undefined ? '' : ' range'}`));
    } finally {
      source.close();
      uploader.close();
      await proxy.close();
      await bucket.close();
    }
  };

  test('is read and written if UNPACK_S3_REQUESTER_PAYS is set', async () => {
    const seen = await use({ UNPACK_S3_REQUESTER_PAYS: 'true' });
    assert.deepEqual([...seen].sort(), ['GET', 'GET range', 'HEAD', 'POST', 'PUT']);
  });

  test('is refused without it', async () => {
    await fails('SOURCE_DENIED', use({}));
  });
});

test('a signed URL that is not valid yet or has expired is signed with the time of the server, with one warning', async () => {
  for (const [hours, message] of [
    [-1, 'Request is not yet valid'],
    [24, 'Request has expired'],
  ] as const) {
    const now = () => Date.now() + hours * 3_600_000;
    const server = await startOddS3(objects, ({ query }, answer) => {
      const [, y, mo, d, h, mi, s] = /^(....)(..)(..)T(..)(..)(..)Z$/.exec(query.get('X-Amz-Date') ?? '') ?? [];
      const signedAt = Date.parse(`${y}-${mo}-${d}T${h}:${mi}:${s}Z`);
      if (Math.abs(signedAt - now()) < 900_000) return;
      refuse(answer, '403 Forbidden', 'AccessDenied', [`Date: ${new Date(now()).toUTCString()}`]);
      answer.body = Buffer.from(`<Error><Code>AccessDenied</Code><Message>${message}</Message></Error>`);
    });
    const warnings: string[] = [];
    const onWarning = ({ message: text }: Error) => warnings.push(text);
    process.on('warning', onWarning);
    const env = { S3_ENDPOINT: server.endpoint };
    const connection = { ...connections(env).connection, credentials: { accessKeyId: 'k', secretAccessKey: 's' } };
    const source = openSource({ kind: 's3', bucket: 'images', prefix: '', layout, connection });
    for (let time = 0; time < 2; time += 1) assert.equal((await source.resolveTag('v1')).digest, link);
    await new Promise((resolve) => setImmediate(resolve));
    process.off('warning', onWarning);
    assert.equal(warnings.filter((text) => /the clock of this machine is \d+ s/.test(text)).length, 1);
    source.close();
    server.close();
  }
});
