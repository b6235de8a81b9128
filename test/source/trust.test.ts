import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { listen } from '../../dev/local-programs.ts';
import { loadConfig } from '../../src/config.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { s3Connection } from '../../src/s3-settings.ts';
import { GrantedBlobs } from '../../src/source/granted-blobs.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { readBlob } from '../../src/source/read-blob.ts';
import { fails } from '../support/fails.ts';
import { skipWithout } from '../support/present.ts';
import { scratch } from '../support/scratch.ts';

describe('an endpoint with a certificate of a private CA', { timeout: 120_000, skip: skipWithout('openssl') }, () => {
  const content = Buffer.from('content');
  const digest = digestOf(content);
  const place = scratch();
  const certificate = join(place.path, 'ca.pem');
  let endpoint = '';
  let close = (): void => {};

  before(async () => {
    const key = join(place.path, 'key.pem');
    const names = 'subjectAltName=DNS:localhost,IP:127.0.0.1';
    const options = ['-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=private CA', '-addext', names];
    execFileSync('openssl', ['req', '-x509', ...options, '-keyout', key, '-out', certificate], { stdio: 'ignore' });
    const server = createServer({ key: readFileSync(key), cert: readFileSync(certificate) }, (_request, response) => {
      response.writeHead(200, { 'content-length': content.length }).end(content);
    });
    endpoint = `https://127.0.0.1:${await listen(server)}`;
    close = () => {
      server.close();
      server.closeAllConnections();
    };
  });
  after(() => {
    close();
    place[Symbol.dispose]();
  });

  const open = (env: Record<string, string>) => {
    const config = loadConfig({}, { S3_ENDPOINT: endpoint, UNPACK_S3_RESUMES: '0', ...env });
    const credentials = { accessKeyId: 'key', secretAccessKey: 'secret' };
    const connection = { ...s3Connection(config, env), credentials };
    return openSource({ kind: 's3', bucket: 'images', prefix: '', layout: { kind: 'oci' }, connection });
  };
  const read = async (env: Record<string, string>) => {
    const source = open(env);
    const granted = new GrantedBlobs();
    const blob = granted.open(await source.grant({ digest, size: content.length }));
    for (const one of [source, blob]) assert.equal(String(await readBlob(one, digest, { limit: 100 })), 'content');
    granted.close();
    source.close();
  };

  test('is trusted with AWS_CA_BUNDLE', () => read({ AWS_CA_BUNDLE: certificate }));

  test('is refused with the settings that help in the message', async () => {
    const error = await fails('SOURCE_UNAVAILABLE', read({}));
    assert.match(error.message, /NODE_EXTRA_CA_CERTS or AWS_CA_BUNDLE/);
    assert.doesNotMatch(error.message, /proxy/);
  });

  test('is refused with the name of a file that cannot be read', async () => {
    const missing = join(place.path, 'missing.pem');
    assert.match((await fails('SOURCE_DENIED', read({ AWS_CA_BUNDLE: missing }))).message, /missing\.pem/);
  });
});
