import assert from 'node:assert/strict';
import { renameSync, writeFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { join } from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { listen } from '../../dev/local-programs.ts';
import { type S3Server, startS3Server } from '../../dev/s3/server.ts';
import type { AccessKey } from '../../dev/s3/signature.ts';
import { loadConfig } from '../../src/config.ts';
import { digestOf, hexOf } from '../../src/oci/digest.ts';
import { openUploader } from '../../src/push/uploader.ts';
import { s3Connection } from '../../src/s3-settings.ts';
import { fetchBlob } from '../../src/source/fetch.ts';
import { GrantedBlobs } from '../../src/source/granted-blobs.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { BUCKET } from '../support/bucket.ts';
import { fails } from '../support/fails.ts';
import { startFaultyProxy } from '../support/faulty-s3.ts';
import { scratch } from '../support/scratch.ts';

const layer = Buffer.alloc(6 << 20, 'a layer ');
const digest = digestOf(layer);
const link = 'docker/registry/v2/repositories/app/_manifests/tags/v1/current/link';
const layout = { kind: 'distribution', repository: 'app' } as const;
const blobKey = `docker/registry/v2/blobs/sha256/${hexOf(digest).slice(0, 2)}/${hexOf(digest)}/data`;

/** Temporary or lasting keys, numbered. */
const keyOf = (number: number, isTemporary = false): AccessKey => ({
  accessKeyId: `KEY${number}`,
  secretAccessKey: `secret-${number}`,
  ...(isTemporary ? { sessionToken: `token-${number}` } : {}),
});

describe('credentials that change while a worker runs', { timeout: 120_000 }, () => {
  const place = scratch();
  const at = (name: string) => join(place.path, name);
  const files = { AWS_SHARED_CREDENTIALS_FILE: at('credentials'), AWS_CONFIG_FILE: at('config') };
  const saved = { ...process.env };
  let server: S3Server;
  /** The only key that the server accepts. */
  let accepted: AccessKey;

  before(async () => {
    for (const name of Object.keys(process.env)) if (/^AWS_/.test(name)) delete process.env[name];
    Object.assign(process.env, { AWS_EC2_METADATA_DISABLED: 'true' });
    server = await startS3Server({ buckets: [BUCKET], key: () => accepted ?? keyOf(0) });
    const seed = openUploader({ ...connection({}), credentials: keyOf(0) }, BUCKET, {});
    await seed.putFile(link, Buffer.from(digest), 'text/plain');
    await seed.putFile(blobKey, layer, 'application/octet-stream');
    seed.close();
  });
  after(async () => {
    for (const name of Object.keys(process.env)) delete process.env[name];
    Object.assign(process.env, saved);
    await server.close();
    place[Symbol.dispose]();
  });

  const connection = (env: Record<string, string>, endpoint = server.endpoint) => {
    // the SDK reads the environment of the process
    Object.assign(process.env, env);
    return s3Connection(loadConfig({}, { S3_ENDPOINT: endpoint, AWS_REGION: 'us-east-1' }), env);
  };
  const open = (env: Record<string, string>, endpoint?: string) =>
    openSource({ kind: 's3', bucket: BUCKET, prefix: '', layout, connection: connection(env, endpoint) });
  /** Replaces the file as administrators and Kubernetes do. */
  const write = (name: string, text: string) => {
    writeFileSync(at(`${name}.new`), text);
    renameSync(at(`${name}.new`), at(name));
  };
  const section = (name: string, { accessKeyId, secretAccessKey, sessionToken }: AccessKey) =>
    [
      `[${name}]`,
      `aws_access_key_id = ${accessKeyId}`,
      `aws_secret_access_key = ${secretAccessKey}`,
      ...(sessionToken === undefined ? [] : [`aws_session_token = ${sessionToken}`]),
      '',
    ].join('\n');
  const accept = (key: AccessKey) => {
    accepted = key;
  };

  describe('in ~/.aws/credentials', () => {
    beforeEach(() => {
      write('config', '');
      write('credentials', section('default', keyOf(1)));
      accept(keyOf(1));
    });

    test('are used for the next job, though the old key is only forbidden and not unknown', async () => {
      const source = open(files);
      const keyIn = async () => {
        const grant = await source.grant({ digest, size: layer.length });
        return grant.kind === 'signed-url' && new URL(grant.url).searchParams.get('X-Amz-Credential')?.split('/')[0];
      };
      assert.equal(await keyIn(), 'KEY1');
      write('credentials', section('default', keyOf(2)));
      assert.equal(await keyIn(), 'KEY2');
      accept(keyOf(2));
      assert.equal((await source.resolveTag('v1')).digest, digest);
      source.close();
    });

    test('are used for a tag whose URL was signed before', async () => {
      const source = open(files);
      assert.equal((await source.resolveTag('v1')).digest, digest);
      write('credentials', section('default', keyOf(3)));
      accept(keyOf(3));
      assert.equal((await source.resolveTag('v1')).digest, digest);
      source.close();
    });

    test('are used for uploads', async () => {
      const uploader = openUploader(connection(files), BUCKET, {});
      await uploader.putFile('a', Buffer.from('a'), 'text/plain');
      write('credentials', section('default', keyOf(4)));
      accept(keyOf(4));
      await uploader.putFile('a', Buffer.from('b'), 'text/plain');
      uploader.close();
    });

    test('are kept while the file is half-written', async () => {
      const source = open(files);
      assert.equal((await source.resolveTag('v1')).digest, digest);
      write('credentials', '[defau');
      await source.grant({ digest, size: layer.length });
      write('credentials', section('default', keyOf(5)));
      accept(keyOf(5));
      assert.equal((await source.resolveTag('v1')).digest, digest);
      source.close();
    });

    test('of a profile of the config file are used, too', async () => {
      write('config', section('profile mirror', keyOf(1)));
      const source = open({ ...files, AWS_PROFILE: 'mirror' });
      assert.equal((await source.resolveTag('v1')).digest, digest);
      write('config', section('profile mirror', keyOf(6)));
      accept(keyOf(6));
      assert.equal((await source.resolveTag('v1')).digest, digest);
      source.close();
      delete process.env.AWS_PROFILE;
    });

    test('that stay wrong fail with the answer of S3', async () => {
      accept(keyOf(9));
      const source = open(files);
      assert.match((await fails('SOURCE_DENIED', source.resolveTag('v1'))).message, /InvalidAccessKeyId/);
      source.close();
    });

    for (const isTemporary of [false, true]) {
      test(`are used in the middle of a layer, ${isTemporary ? 'with a session token' : 'with a lasting key'}`, async () => {
        write('credentials', section('default', keyOf(1, isTemporary)));
        accept(keyOf(1, isTemporary));
        const rotate = async () => {
          write('credentials', section('default', keyOf(7, isTemporary)));
          accept(keyOf(7, isTemporary));
        };
        await download(files, rotate);
      });
    }
  });

  /** Downloads the layer. The connection is cut in the middle, and the keys change before the rest is requested. */
  async function download(env: Record<string, string>, rotate: () => Promise<void>): Promise<void> {
    const proxy = await startFaultyProxy({
      target: server.endpoint,
      rules: [
        { fault: { kind: 'drop', afterBytes: 2 << 20 }, times: 1 },
        { fault: { kind: 'reset' }, times: 1, before: rotate },
      ],
    });
    const source = open(env, proxy.endpoint);
    const granted = new GrantedBlobs();
    try {
      const blob = { digest, size: layer.length };
      const grant = (refused?: Parameters<typeof source.grant>[1]) => source.grant(blob, refused);
      const first = await grant();
      if (first.kind !== 'signed-url') throw new TypeError('a bucket grants URLs');
      const renew = async (refused: Parameters<typeof source.grant>[1]) => {
        const next = await grant(refused);
        if (next.kind !== 'signed-url') throw new TypeError('a bucket grants URLs');
        return next;
      };
      let received = 0;
      const one = granted.open(first, undefined, renew);
      for await (const chunk of fetchBlob(one, blob, { firstDelay: 1 })) received += chunk.length;
      assert.equal(received, layer.length);
      assert.ok(proxy.seen.length >= 4, 'cut, reset, refused, resumed');
    } finally {
      granted.close();
      source.close();
      await proxy.close();
    }
  }

  /** Starts a service that gives temporary keys for the number in a token file, and lets it run during `use`. */
  async function withService(answer: RequestListener, use: (url: string) => Promise<void>): Promise<void> {
    const service = createServer(answer);
    try {
      await use(`http://127.0.0.1:${await listen(service)}`);
    } finally {
      service.close();
      service.closeAllConnections();
    }
  }
  const inAnHour = () => new Date(Date.now() + 3_600_000).toISOString();
  /** The first token gives the first key. After the rotation, only the key of the second token is accepted. */
  const rotateToken = async () => {
    write('token', '12');
    accept(keyOf(12, true));
  };

  test('of a web identity come from the token that its file has now', async () => {
    const asked: string[] = [];
    const sts: RequestListener = (request, response) => {
      let body = '';
      request.on('data', (text) => {
        body += text;
      });
      request.on('end', () => {
        const token = new URLSearchParams(body).get('WebIdentityToken') ?? '';
        asked.push(token);
        const { accessKeyId, secretAccessKey, sessionToken } = keyOf(Number(token), true);
        const fields = `<AccessKeyId>${accessKeyId}</AccessKeyId><SecretAccessKey>${secretAccessKey}</SecretAccessKey><SessionToken>${sessionToken}</SessionToken><Expiration>${inAnHour()}</Expiration>`;
        const result = `<AssumeRoleWithWebIdentityResult><Credentials>${fields}</Credentials></AssumeRoleWithWebIdentityResult>`;
        response.writeHead(200, { 'content-type': 'text/xml' });
        response.end(
          `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">${result}</AssumeRoleWithWebIdentityResponse>`,
        );
      });
    };
    await withService(sts, async (url) => {
      write('credentials', '');
      write('config', '');
      write('token', '11');
      accept(keyOf(11, true));
      const env = {
        ...files,
        AWS_WEB_IDENTITY_TOKEN_FILE: at('token'),
        AWS_ROLE_ARN: 'arn:aws:iam::123456789012:role/reader',
        AWS_ENDPOINT_URL_STS: url,
      };
      await download(env, rotateToken);
      assert.deepEqual(asked, ['11', '12']);
    });
    for (const name of ['AWS_WEB_IDENTITY_TOKEN_FILE', 'AWS_ROLE_ARN', 'AWS_ENDPOINT_URL_STS'])
      delete process.env[name];
  });

  test('of a container come with the token that its file has now', () =>
    withContainer(async (env, asked) => {
      await download(env, rotateToken);
      assert.deepEqual(asked, ['11', '12']);
    }));

  test('that are refused during uploads are replaced', () =>
    withContainer(async (env, asked) => {
      const uploader = openUploader(connection(env), BUCKET, {});
      await uploader.putFile('b', Buffer.from('b'), 'text/plain');
      await rotateToken();
      assert.equal(await uploader.has('b', 1), true);
      await uploader.putFile('b', Buffer.from('c'), 'text/plain');
      uploader.close();
      assert.deepEqual(asked, ['11', '12']);
    }));

  /** Runs `use` with the environment of a container whose agent gives the keys for the number in the token file. */
  async function withContainer(use: (env: Record<string, string>, asked: readonly string[]) => Promise<void>) {
    const asked: string[] = [];
    const agent: RequestListener = (request, response) => {
      const token = request.headers.authorization ?? '';
      asked.push(token);
      const { accessKeyId, secretAccessKey, sessionToken } = keyOf(Number(token), true);
      const keys = { AccessKeyId: accessKeyId, SecretAccessKey: secretAccessKey, Token: sessionToken };
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ ...keys, Expiration: inAnHour() }));
    };
    await withService(agent, async (url) => {
      write('credentials', '');
      write('config', '');
      write('token', '11');
      accept(keyOf(11, true));
      const env = {
        ...files,
        AWS_CONTAINER_CREDENTIALS_FULL_URI: `${url}/v1/credentials`,
        AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: at('token'),
      };
      await use(env, asked);
    });
  }
});
