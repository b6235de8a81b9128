import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { freePort, listen } from '../../dev/local-programs.ts';
import { loadConfig } from '../../src/config.ts';
import { checkS3 } from '../../src/doctor/s3.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { openUploader } from '../../src/push/uploader.ts';
import { s3Connection } from '../../src/s3-settings.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { readBlob } from '../../src/source/read-blob.ts';
import { BUCKET, startTestBucket, type TestBucket } from '../support/bucket.ts';
import { makeCertificates } from '../support/certificates.ts';
import { endChild, startChild } from '../support/child.ts';
import { eventually } from '../support/eventually.ts';
import { fails } from '../support/fails.ts';
import { skipWithout } from '../support/present.ts';
import { scratch } from '../support/scratch.ts';

/** A proxy that others wrote. It makes tunnels for TLS, forwards other requests, and asks for a password. */
describe('S3 through tinyproxy', { timeout: 120_000, skip: skipWithout('tinyproxy', 'openssl') }, () => {
  const place = scratch();
  const content = Buffer.from('content');
  const digest = digestOf(content);
  let bucket: TestBucket;
  let address = '';
  let proxy: ReturnType<typeof startChild>;
  let tls: ReturnType<typeof createServer>;
  let secure = '';
  let ca = '';

  before(async () => {
    bucket = await startTestBucket();
    await bucket.putBlob(content);
    const certificates = makeCertificates(place.path);
    ca = certificates.ca;
    const { cert, key } = certificates.server;
    tls = createServer({ cert: readFileSync(cert), key: readFileSync(key) }, (request, response) => {
      request.resume();
      response.writeHead(200, { 'content-length': content.length }).end(request.method === 'HEAD' ? '' : content);
    });
    secure = `https://localhost:${await listen(tls)}`;
    const port = await freePort();
    address = `127.0.0.1:${port}`;
    const config = join(place.path, 'tinyproxy.conf');
    // it makes a tunnel to the port of the TLS server only
    const connectPort = new URL(secure).port;
    writeFileSync(
      config,
      `Port ${port}\nListen 127.0.0.1\nTimeout 60\nBasicAuth user pass-word\nConnectPort ${connectPort}\n`,
    );
    proxy = startChild('tinyproxy', ['-d', '-c', config], { stdio: 'ignore' });
    await eventually('tinyproxy listens', () => answers(port));
  });
  after(async () => {
    await endChild(proxy);
    tls.close();
    tls.closeAllConnections();
    await bucket.close();
    place[Symbol.dispose]();
  });

  const connection = (endpoint: string, user: string) => {
    const { accessKeyId, secretAccessKey } = bucket.server;
    const env = { ALL_PROXY: `http://${user}${address}`, AWS_CA_BUNDLE: ca };
    const config = loadConfig({}, { S3_ENDPOINT: endpoint, UNPACK_S3_RESUMES: '0', ...env });
    return { ...s3Connection(config, env), credentials: { accessKeyId, secretAccessKey } };
  };
  const use = async (endpoint: string, user: string) => {
    const to = connection(endpoint, user);
    const source = openSource({
      kind: 's3',
      bucket: BUCKET,
      prefix: 'mirror',
      layout: { kind: 'oci' },
      connection: to,
    });
    const uploader = openUploader(to, BUCKET, {});
    try {
      assert.ok((await readBlob(source, digest, { limit: 100 })).equals(content));
      await uploader.putFile('a', content, 'text/plain');
    } finally {
      uploader.close();
      source.close();
    }
  };

  for (const kind of ['without TLS', 'with TLS'] as const) {
    const endpoint = () => (kind === 'with TLS' ? secure : bucket.server.endpoint);

    test(`${kind}: reads and writes with the right password`, () => use(endpoint(), 'user:pass-word@'));

    test(`${kind}: says what to do without a password, or with a wrong one`, async () => {
      const none = await fails('SOURCE_DENIED', use(endpoint(), ''));
      assert.match(none.message, /\(ALL_PROXY\) asks for a user and a password \(40[17] .*write http:/);
      const wrong = await fails('SOURCE_DENIED', use(endpoint(), 'user:wrong@'));
      assert.match(wrong.message, /refuses the user and the password of ALL_PROXY \(40[17] .*correct them/);
      for (const user of ['', 'user:wrong@']) {
        const [check] = await checkS3({ connection: connection(endpoint(), user) }, [BUCKET]);
        assert.equal(check?.status, 'fail');
        assert.match(`${check?.finding} ${check?.advice}`, /the proxy .* password .*ALL_PROXY/);
      }
    });
  }

  test('says that the proxy forbids a port, or cannot reach the server', async () => {
    const forbidden = await fails('SOURCE_DENIED', use('https://localhost:1', 'user:pass-word@'));
    assert.match(forbidden.message, /the proxy .* does not allow a connection to localhost:1 \(403/);
    const gone = await fails('SOURCE_UNAVAILABLE', use(`http://127.0.0.1:${await freePort()}`, 'user:pass-word@'));
    assert.match(gone.message, /the proxy .* can't connect to 127\.0\.0\.1:\d+ \(50[0-9]/);
  });
});

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}
