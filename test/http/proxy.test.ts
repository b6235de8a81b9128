import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { proxiesOf, proxyFor, proxyName } from '../../src/http/proxy.ts';

describe('the proxy of a server', () => {
  const via = (env: Record<string, string>, url: string): string | undefined => {
    const { protocol, hostname, port } = new URL(url);
    const secure = protocol === 'https:';
    const host = hostname.replace(/^\[(.*)\]$/, '$1');
    const proxy = proxyFor(proxiesOf(env), { secure, host, port: port === '' ? (secure ? 443 : 80) : Number(port) });
    return proxy && `${proxy.secure ? 'https' : 'http'} ${proxy.host} ${proxy.port} ${proxy.variable}`;
  };

  const chosen: readonly [Record<string, string>, string, string | undefined][] = [
    [{}, 'https://s3.example', undefined],
    [{ HTTPS_PROXY: 'http://p:3128' }, 'https://s3.example', 'http p 3128 HTTPS_PROXY'],
    [{ HTTPS_PROXY: 'http://p:3128' }, 'http://s3.example', undefined],
    [{ HTTP_PROXY: 'p:3128' }, 'http://s3.example', 'http p 3128 HTTP_PROXY'],
    [{ HTTP_PROXY: 'http://p' }, 'http://s3.example', 'http p 80 HTTP_PROXY'],
    [{ https_proxy: 'https://p/' }, 'https://s3.example', 'https p 443 https_proxy'],
    [{ https_proxy: 'low:1', HTTPS_PROXY: 'up:1' }, 'https://s3.example', 'http low 1 https_proxy'],
    [{ https_proxy: '', HTTPS_PROXY: 'up:1' }, 'https://s3.example', 'http up 1 HTTPS_PROXY'],
    [{ ALL_PROXY: 'http://all:1', HTTP_PROXY: 'h:1' }, 'https://s3.example', 'http all 1 ALL_PROXY'],
    [{ HTTP_PROXY: 'http://[fd00::1]:8080' }, 'http://s3.example', 'http fd00::1 8080 HTTP_PROXY'],
  ];
  for (const [env, url, expected] of chosen) {
    test(`${JSON.stringify(env)} for ${url}: ${expected ?? 'none'}`, () => assert.equal(via(env, url), expected));
  }

  const direct: readonly [string, string, boolean][] = [
    ['*', 'https://s3.example', true],
    ['s3.example', 'https://s3.example', true],
    ['S3.Example.', 'https://s3.example', true],
    ['example', 'https://s3.example', true],
    ['.example', 'https://s3.example', true],
    ['*.example', 'https://s3.example', true],
    ['.s3.example', 'https://s3.example', true],
    ['3.example', 'https://s3.example', false],
    ['other, s3.example', 'https://s3.example', true],
    ['other s3.example', 'https://s3.example', true],
    ['s3.example:443', 'https://s3.example', true],
    ['s3.example:8443', 'https://s3.example', false],
    ['s3.example:8443', 'https://s3.example:8443', true],
    ['10.0.0.0/8', 'https://10.1.2.3:9000', true],
    ['10.0.0.0/8', 'https://11.1.2.3:9000', false],
    ['10.0.0.0/33', 'https://10.1.2.3:9000', false],
    ['10.1.2.3', 'https://10.1.2.3:9000', true],
    ['10.1.2.3:9000', 'https://10.1.2.3:9000', true],
    ['10.1.2.3:9001', 'https://10.1.2.3:9000', false],
    ['fd00::/8', 'https://[fd00::1]:9000', true],
    ['fd00::1', 'https://[fd00::1]:9000', true],
    ['[fd00::1]:9000', 'https://[fd00::1]:9000', true],
    ['[fd00::1]:1', 'https://[fd00::1]:9000', false],
    ['3', 'https://10.1.2.3', false],
    ['localhost', 'https://127.0.0.1', false],
    [' , ', 'https://s3.example', false],
  ];
  for (const [except, url, expected] of direct) {
    test(`NO_PROXY=${JSON.stringify(except)} ${expected ? 'is' : 'is not'} for ${url}`, () => {
      assert.equal(via({ HTTPS_PROXY: 'p:1', NO_PROXY: except }, url) === undefined, expected);
    });
  }

  test('has a password that is percent-decoded, and is not in its name', () => {
    const proxy = proxiesOf({ HTTP_PROXY: 'http://user:p%40ss%2Fword@p:1' })?.http;
    assert.equal(proxy?.authorization, `Basic ${Buffer.from('user:p@ss/word').toString('base64')}`);
    assert.equal(proxy && proxyName(proxy), 'the proxy p:1 (HTTP_PROXY)');
  });

  test('is refused without its value if it is not the URL of an HTTP proxy', () => {
    for (const value of ['socks5://u:secret@p:1', 'http://u:secret/x@p:1', 'http://u:secret#x@p:1', 'http://', 'a b']) {
      assert.throws(
        () => proxiesOf({ HTTPS_PROXY: value }),
        (error: Error) => /^HTTPS_PROXY /.test(error.message) && !error.message.includes('secret'),
      );
    }
  });
});
