import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { freePort, listen } from '../../dev/local-programs.ts';
import { loadConfig } from '../../src/config.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { openUploader } from '../../src/push/uploader.ts';
import { s3Connection } from '../../src/s3-settings.ts';
import { GrantedBlobs } from '../../src/source/granted-blobs.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { readBlob } from '../../src/source/read-blob.ts';
import { fails } from '../support/fails.ts';
import { type ProxyRules, startProxy } from '../support/http-proxy.ts';
import { skipWithout } from '../support/present.ts';
import { scratch } from '../support/scratch.ts';

/** Several ranges. */
const content = Buffer.alloc(12 * 1024 * 1024, 'content of a layer ');
const digest = digestOf(content);
const credentials = { accessKeyId: 'key', secretAccessKey: 'secret' };

describe('connections to S3 through a proxy', { timeout: 120_000, skip: skipWithout('openssl') }, () => {
  const place = scratch();
  const certificate = join(place.path, 'ca.pem');
  let tls = { key: Buffer.alloc(0), cert: Buffer.alloc(0) };
  const open: { close(): void; closeAllConnections(): void }[] = [];
  /** The two endpoints, and how many connections each has had. */
  let http = { url: '', connections: 0 };
  let https = { url: '', connections: 0 };

  before(async () => {
    const key = join(place.path, 'key.pem');
    const options = ['-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=private CA'];
    const names = ['-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
    const files = ['-keyout', key, '-out', certificate];
    execFileSync('openssl', ['req', '-x509', ...options, ...names, ...files], { stdio: 'ignore' });
    tls = { key: readFileSync(key), cert: readFileSync(certificate) };
    const answer: RequestListener = (request, response) => {
      const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
      if (request.method !== 'GET') return void request.resume().on('end', () => response.writeHead(200).end());
      if (from === undefined) return void response.writeHead(200, { 'content-length': content.length }).end(content);
      const end = to === '' ? content.length : Number(to) + 1;
      const part = content.subarray(Number(from), end);
      const range = `bytes ${from}-${end - 1}/${content.length}`;
      response.writeHead(206, { 'content-length': part.length, 'content-range': range }).end(part);
    };
    const plain = createServer(answer);
    const secure = createTlsServer(tls, answer);
    open.push(plain, secure);
    http = { url: `http://127.0.0.1:${await listen(plain)}`, connections: 0 };
    https = { url: `https://127.0.0.1:${await listen(secure)}`, connections: 0 };
    plain.on('connection', () => (http.connections += 1));
    secure.on('connection', () => (https.connections += 1));
  });
  after(() => {
    for (const server of open) {
      server.close();
      server.closeAllConnections();
    }
    place[Symbol.dispose]();
  });

  const connection = (endpoint: string, env: Record<string, string>) => {
    const settings = { S3_ENDPOINT: endpoint, UNPACK_S3_RESUMES: '0', UNPACK_S3_CONNECT_TIMEOUT: '5s' };
    return { ...s3Connection(loadConfig({}, { ...settings, ...env }), env), credentials };
  };
  /** Reads a blob as a job does, and uploads one as push does. */
  const use = async (endpoint: string, env: Record<string, string>) => {
    const to = connection(endpoint, env);
    const source = openSource({ kind: 's3', bucket: 'images', prefix: '', layout: { kind: 'oci' }, connection: to });
    const granted = new GrantedBlobs();
    const uploader = openUploader(to, 'images', {});
    try {
      const blob = granted.open(await source.grant({ digest, size: content.length }));
      for (const one of [source, blob]) {
        assert.ok((await readBlob(one, digest, { limit: content.length })).equals(content));
      }
      await uploader.putFile('index.json', Buffer.from('{}'), 'application/json');
    } finally {
      uploader.close();
      granted.close();
      source.close();
    }
  };
  const withProxy = async (rules: ProxyRules, action: (address: string, seen: readonly string[]) => Promise<void>) => {
    const proxy = await startProxy(rules);
    try {
      await action(proxy.address, proxy.seen);
    } finally {
      proxy.close();
    }
  };

  test('with TLS all go through a tunnel', () =>
    withProxy({}, async (address, seen) => {
      https.connections = 0;
      await use(https.url, { HTTPS_PROXY: `http://${address}`, AWS_CA_BUNDLE: certificate });
      const { host } = new URL(https.url);
      assert.ok(seen.length >= 2 && seen.every((target) => target === host), seen.join());
      assert.equal(https.connections, seen.length, 'a connection was direct');
    }));

  test('without TLS all ask the proxy for the URL', () =>
    withProxy({}, async (address, seen) => {
      http.connections = 0;
      await use(http.url, { http_proxy: address });
      assert.ok(seen.length >= 3 && seen.every((url) => url.startsWith(`${http.url}/images/`)), seen.join());
    }));

  test('use TLS to the proxy, too, with the CA of AWS_CA_BUNDLE', () =>
    withProxy({ tls }, async (address, seen) => {
      for (const url of [https.url, http.url]) {
        const env = { ALL_PROXY: `https://${address}`, AWS_CA_BUNDLE: certificate };
        await use(url, env);
      }
      assert.ok(seen.length >= 4);
      const message = (await fails('SOURCE_UNAVAILABLE', use(https.url, { ALL_PROXY: `https://${address}` }))).message;
      assert.match(message, /the proxy .* certificate is signed by an unknown CA; set AWS_CA_BUNDLE/);
    }));

  test('send the password of the proxy, and only to it', () =>
    withProxy({ password: 'user:p@ss word' }, async (address, seen) => {
      for (const url of [https.url, http.url]) {
        await use(url, { ALL_PROXY: `http://user:p%40ss%20word@${address}`, AWS_CA_BUNDLE: certificate });
      }
      assert.ok(seen.length >= 4);
    }));

  test('are direct for a server of NO_PROXY', () =>
    withProxy({}, async (address, seen) => {
      await use(http.url, { HTTP_PROXY: address, NO_PROXY: '127.0.0.0/8' });
      await use(https.url, { HTTPS_PROXY: address, NO_PROXY: '127.0.0.1', AWS_CA_BUNDLE: certificate });
      // nothing listens there, and not every machine has IPv6: the proxy must not be asked
      const env = { HTTP_PROXY: address, NO_PROXY: '::1' };
      await fails('SOURCE_UNAVAILABLE', use(`http://[::1]:${await freePort()}`, env));
      const uploader = openUploader(connection(`http://[::1]:${await freePort()}`, env), 'images', {});
      await fails('SOURCE_UNAVAILABLE', uploader.putFile('a', Buffer.from('a'), 'text/plain'));
      uploader.close();
      assert.deepEqual(seen, []);
    }));

  const refused: readonly [string, ProxyRules, string, 'SOURCE_DENIED' | 'SOURCE_UNAVAILABLE', RegExp][] = [
    ['asks for a password', { password: 'a:b' }, '', 'SOURCE_DENIED', /asks for a user and a password \(407 .*write/],
    ['refuses the password', { password: 'a:b' }, 'u:hidden-word@', 'SOURCE_DENIED', /refuses the user and .*407/],
    ['forbids the server', { refuse: '403 Forbidden' }, '', 'SOURCE_DENIED', /not allow .*127\.0\.0\.1:\d+ \(403/],
    ['cannot connect', { refuse: '502 Bad Gateway' }, '', 'SOURCE_UNAVAILABLE', /can't connect to .* \(502/],
  ];
  for (const [what, rules, user, code, message] of refused) {
    test(`fail with a sentence about a proxy that ${what}`, () =>
      withProxy(rules, async (address) => {
        for (const endpoint of [https.url, http.url]) {
          const error = await fails(
            code,
            use(endpoint, { ALL_PROXY: `http://${user}${address}`, AWS_CA_BUNDLE: certificate }),
          );
          assert.match(error.message, message);
          assert.match(error.message, new RegExp(`the proxy ${address} \\(ALL_PROXY\\)`));
          assert.doesNotMatch(error.message, /hidden-word/);
        }
      }));
  }

  test('fail with a sentence about a proxy that does not listen, speaks no TLS, or never answers', async () => {
    const gone = `127.0.0.1:${await freePort()}`;
    for (const endpoint of [https.url, http.url]) {
      const { message } = await fails('SOURCE_UNAVAILABLE', use(endpoint, { ALL_PROXY: gone }));
      assert.match(message, /the proxy .*\(ALL_PROXY\) can't be reached: nothing listens there/);
    }
    await withProxy({}, async (address) => {
      for (const endpoint of [https.url, http.url]) {
        const { message } = await fails('SOURCE_UNAVAILABLE', use(endpoint, { ALL_PROXY: `https://${address}` }));
        assert.match(message, /the proxy .* does not speak TLS/);
      }
    });
    await withProxy({ refuse: 'silent' }, async (address) => {
      const env = { ALL_PROXY: address, UNPACK_S3_CONNECT_TIMEOUT: '200ms' };
      const { message } = await fails('SOURCE_UNAVAILABLE', use(https.url, env));
      assert.match(message, /the proxy .* opened no connection within 0\.2 s/);
    });
  });

  test('of uploads fail with the same sentences', () =>
    withProxy({ password: 'a:b' }, async (address) => {
      for (const endpoint of [https.url, http.url]) {
        const to = connection(endpoint, { ALL_PROXY: `http://a:hidden-word@${address}`, AWS_CA_BUNDLE: certificate });
        const uploader = openUploader(to, 'images', {});
        const { message } = await fails('SOURCE_DENIED', uploader.putFile('a', Buffer.from('a'), 'text/plain'));
        assert.match(message, /refuses the user and the password of ALL_PROXY \(407/);
        uploader.close();
      }
    }));
});
