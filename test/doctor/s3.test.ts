import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { createServer as createRawServer } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { freePort, listen } from '../../dev/local-programs.ts';
import { type S3Server, startS3Server } from '../../dev/s3/server.ts';
import { loadConfig } from '../../src/config.ts';
import { checkS3 } from '../../src/doctor/s3.ts';
import { openUploader } from '../../src/push/uploader.ts';
import { s3Connections } from '../../src/s3-settings.ts';
import { connectionFor } from '../../src/source/bucket-endpoints.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { BUCKET } from '../support/bucket.ts';
import { makeCertificates } from '../support/certificates.ts';
import { errorBody } from '../support/odd-s3.ts';
import { skipWithout } from '../support/present.ts';
import { scratch } from '../support/scratch.ts';

describe('the doctor checks S3', { timeout: 120_000, skip: skipWithout('openssl') }, () => {
  const place = scratch();
  const at = (name: string, text: string) => {
    writeFileSync(join(place.path, name), text);
    return join(place.path, name);
  };
  const saved = { ...process.env };
  const open: { close(): void; closeAllConnections?(): void }[] = [];
  let s3: S3Server;
  let files: Record<string, string> = {};

  before(async () => {
    for (const name of Object.keys(process.env)) if (/^AWS_/.test(name)) delete process.env[name];
    s3 = await startS3Server({ buckets: [BUCKET, 'mirror-eu'] });
    const { accessKeyId, secretAccessKey } = s3;
    const keys = `aws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`;
    const wrong = 'aws_access_key_id = nobody\naws_secret_access_key = x\n';
    files = {
      AWS_SHARED_CREDENTIALS_FILE: at('credentials', `[default]\n${keys}[mirror]\n${keys}[wrong]\n${wrong}`),
      AWS_CONFIG_FILE: at('config', ''),
      AWS_EC2_METADATA_DISABLED: 'true',
    };
    // the SDK reads the environment of the process
    Object.assign(process.env, files);
  });
  after(async () => {
    for (const name of Object.keys(process.env)) delete process.env[name];
    Object.assign(process.env, saved);
    for (const server of open) {
      server.close();
      server.closeAllConnections?.();
    }
    await s3.close();
    place[Symbol.dispose]();
  });

  const connections = (env: Record<string, string>) => {
    const settings = { UNPACK_S3_RESUMES: '0', UNPACK_S3_IDLE_TIMEOUT: '20s', ...env };
    return s3Connections(loadConfig({}, settings), { ...files, ...env });
  };
  const check = async (env: Record<string, string>, buckets: readonly string[] = [BUCKET]) =>
    (await checkS3(connections(env), buckets)).map(
      ({ name, status, finding, advice }) =>
        `${status} ${name}: ${finding}${advice === undefined ? '' : ` → ${advice}`}`,
    );
  const serve = async (answer: RequestListener, tls?: { key: Buffer; cert: Buffer }): Promise<string> => {
    const server: Server = tls === undefined ? createServer(answer) : createTlsServer(tls, answer);
    open.push(server);
    return `${tls === undefined ? 'http' : 'https'}://127.0.0.1:${await listen(server)}`;
  };
  const answering = (status: number, body: Buffer | string, headers: Record<string, string> = {}) =>
    serve((request, response) => {
      request.resume();
      response.writeHead(status, headers).end(request.method === 'HEAD' ? '' : body);
    });
  const inFile = (endpoints: readonly Record<string, unknown>[]) => at('endpoints.json', JSON.stringify({ endpoints }));

  test('of each entry of UNPACK_S3_ENDPOINTS: endpoint, credentials, bucket', async () => {
    const gone = `http://127.0.0.1:${await freePort()}`;
    const UNPACK_S3_ENDPOINTS = inFile([
      { bucket: 'mirror-eu', endpoint: s3.endpoint, profile: 'mirror' },
      { bucket: 'mirror-*', endpoint: s3.endpoint },
      { bucket: 'down-*', endpoint: gone },
      { bucket: 'wrong-*', endpoint: s3.endpoint, profile: 'wrong' },
      { bucket: 'empty', endpoint: s3.endpoint, profile: 'nobody' },
      { bucket: 'missing', endpoint: s3.endpoint },
    ]);
    const found = await check({ UNPACK_S3_ENDPOINTS, S3_ENDPOINT: s3.endpoint }, ['mirror-us', BUCKET]);
    const patterns = [
      /^ok S3 bucket images: readable/,
      /^ok S3 bucket mirror-eu \(mirror-eu\): readable/,
      /^fail S3 bucket mirror-us \(mirror-\*\): does not exist .*"endpoint" of the entry mirror-\* in UNPACK_S3_ENDPOINTS/,
      /^fail S3 \(down-\*\): .*nothing listens there .* → correct "endpoint" of the entry down-\*/,
      /^fail S3 \(wrong-\*\): .*InvalidAccessKeyId.* → correct the keys of the profile wrong in .*credentials/,
      /^fail S3 credentials \(empty\): none found.* → set the keys of the profile nobody/,
      /^fail S3 bucket missing \(missing\): does not exist/,
    ];
    assert.equal(found.length, patterns.length, found.join('\n'));
    for (const [index, pattern] of patterns.entries()) assert.match(found[index] ?? '', pattern);
  });

  test('without a bucket: whether the endpoint answers and accepts the credentials', async () => {
    const [found = ''] = await check({ S3_ENDPOINT: s3.endpoint }, []);
    assert.match(found, /^warn S3: .* answers and accepts the credentials; no bucket to check/);
  });

  /** The doctor's line, and the messages of a read and of an upload. */
  const meet = async (env: Record<string, string>) => {
    const [line = ''] = await check(env);
    const connection = connectionFor(connections(env), BUCKET);
    const message = (error: unknown) => (error instanceof Error ? error.message : String(error));
    const source = openSource({ kind: 's3', bucket: BUCKET, prefix: '', layout: { kind: 'oci' }, connection });
    const read = await source.resolveTag('v1').then(() => 'read', message);
    source.close();
    let upload = '';
    try {
      const uploader = openUploader(connection, BUCKET, {});
      upload = await uploader.has('a', 1).then(() => 'there', message);
      uploader.close();
    } catch (error) {
      upload = message(error);
    }
    return { line, read, upload };
  };
  const sameEverywhere = async (env: Record<string, string>, pattern: RegExp, advice: RegExp) => {
    const { line, read, upload } = await meet(env);
    assert.match(line, /^(fail|warn)/);
    for (const text of [line, read, upload]) {
      assert.match(text, pattern);
      assert.match(text, advice);
    }
  };

  test('in another region', async () => {
    const moved = await answering(301, errorBody('PermanentRedirect'), { 'x-amz-bucket-region': 'eu-central-1' });
    const malformed = await answering(400, errorBody('AuthorizationHeaderMalformed', '<Region>eu-central-1</Region>'));
    for (const S3_ENDPOINT of [moved, malformed]) {
      await sameEverywhere({ S3_ENDPOINT }, /is in the region eu-central-1/, /set AWS_REGION to eu-central-1/);
    }
    const AWS_CONFIG_FILE = at('region', '[default]\nregion = us-west-2\n');
    await sameEverywhere(
      { S3_ENDPOINT: moved, AWS_CONFIG_FILE },
      /eu-central-1/,
      /set region of the profile default in /,
    );
  });

  test('with another clock', async () => {
    const S3_ENDPOINT = await answering(403, errorBody('RequestTimeTooSkewed'), { date: new Date(0).toUTCString() });
    await sameEverywhere({ S3_ENDPOINT }, /refused the time of the request/, /correct the clock of this machine/);
  });

  test('at an address that is not S3', async () => {
    const page = await answering(200, '<html>console</html>', { 'content-type': 'text/html' });
    assert.match(
      (await meet({ S3_ENDPOINT: page })).line,
      /fail .* answers with a page \(text\/html\).* → correct S3_ENDPOINT/,
    );
    const none = await answering(404, '<html>not found</html>');
    assert.match((await meet({ S3_ENDPOINT: none })).line, /fail .* without an error of S3.* → check S3_ENDPOINT/);
    const tls = await answering(400, 'Client sent an HTTP request to an HTTPS server.\n');
    await sameEverywhere({ S3_ENDPOINT: tls }, /400 without an error of S3/, /should S3_ENDPOINT begin with https:/);
  });

  test('that does not listen, answer or resolve', async () => {
    const gone = `http://127.0.0.1:${await freePort()}`;
    await sameEverywhere({ AWS_ENDPOINT_URL: gone }, /nothing listens there/, /./);
    assert.match((await meet({ AWS_ENDPOINT_URL: gone })).line, /correct AWS_ENDPOINT_URL, or start the S3 server/);
    const silent = createRawServer();
    open.push(silent);
    const env = { S3_ENDPOINT: `http://127.0.0.1:${await listen(silent)}`, UNPACK_S3_IDLE_TIMEOUT: '100ms' };
    const { line, upload } = await meet(env);
    for (const text of [line, upload]) assert.match(text, /it did not answer in time/);
  });

  test('with TLS of a private CA, and names where the CA comes from', async () => {
    const { ca, foreign, server } = makeCertificates(place.path);
    const tls = { key: readFileSync(server.key), cert: readFileSync(server.cert) };
    const endpoint = (await serve((_request, response) => response.writeHead(404).end(), tls)).replace(
      '127.0.0.1',
      'localhost',
    );
    const profile = (name: string, bundle: string) =>
      at(name, `[default]\nendpoint_url = ${endpoint}\nca_bundle = ${bundle}\n`);
    const unknown = /signed by an unknown CA/;
    await sameEverywhere({ S3_ENDPOINT: endpoint }, unknown, /set NODE_EXTRA_CA_CERTS or AWS_CA_BUNDLE to/);
    const other = { AWS_CONFIG_FILE: profile('other', foreign.cert) };
    await sameEverywhere(other, unknown, /or ca_bundle of the profile default in .*other to/);
    const missing = { AWS_CONFIG_FILE: profile('missing', '/nowhere.pem') };
    await sameEverywhere(
      missing,
      /\/nowhere\.pem \(ca_bundle of the profile default in .*missing\) can't be read/,
      /./,
    );
    const good = { AWS_CONFIG_FILE: profile('good', ca) };
    assert.match((await meet(good)).line, /without an error of S3/, 'TLS is trusted');
    const plain = {
      AWS_CONFIG_FILE: at('plain', `[default]\nendpoint_url = ${s3.endpoint.replace('http', 'https')}\n`),
    };
    await sameEverywhere(
      plain,
      /does not speak TLS/,
      /should endpoint_url of the profile default in .* begin with http:/,
    );
  });

  test('through a proxy that is down', async () => {
    const HTTP_PROXY = `http://127.0.0.1:${await freePort()}`;
    await sameEverywhere(
      { S3_ENDPOINT: s3.endpoint, HTTP_PROXY },
      /the proxy .* can't be reached/,
      /correct HTTP_PROXY/,
    );
  });
});
