import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { displayRedisUrl, maskedRedisUrl, readRedisUrl } from '../src/redis-address.ts';

describe('readRedisUrl', () => {
  const read: readonly (readonly [url: string, expected: object])[] = [
    ['redis://host', { host: 'host', port: 6379, tls: false, db: 0 }],
    ['redis://host:1/', { port: 1, db: 0 }],
    ['redis://host/15', { db: 15 }],
    ['rediss://host', { tls: true }],
    // ioredis looks for the scheme in lower case only, and would send the password without TLS
    ['REDISS://host', { tls: true }],
    ['valkeys://host', { tls: true }],
    ['redis://[::1]:7', { host: '::1', port: 7 }],
    ['redis://user:pass@host', { username: 'user', password: 'pass' }],
    ['redis://:pass@host', { username: undefined, password: 'pass' }],
    ['redis://user@host', { username: 'user', password: undefined }],
    ['redis://:p%40s%2Fs%3F%23%25%20@host', { password: 'p@s/s?#% ' }],
    ['redis://:a:b@host', { password: 'a:b' }],
    ['redis://:a@b@host', { host: 'host', password: 'a@b' }],
    ['redis://host?family=6', { family: 6 }],
  ];
  for (const [url, expected] of read) {
    test(`reads ${url}`, () => {
      const address = readRedisUrl(url);
      assert.ok(typeof address === 'object', String(address));
      assert.deepEqual({ ...address, ...expected }, address);
    });
  }

  const refused: readonly (readonly [url: string, sentence: RegExp])[] = [
    ['redis://:p@ss#word@host', /percent-encode.*REDIS_PASSWORD_FILE/],
    ['redis://user:pa/ss@host', /percent-encode/],
    ['redis://user:pa?ss@host', /percent-encode/],
    ['redis://user:12/34@host', /percent-encode/],
    ['redis://user:12?34@host', /percent-encode/],
    ['redis://user:100%sure@host', /percent-encode/],
    ['redis://:two words@host', /percent-encode/],
    ['redis://:ta\tb@host', /percent-encode/],
    ['redis://host?password=secret', /parameters after a \?/],
    ['redis://host?tls=true', /parameters after a \?/],
    ['redis://host/name', /number of a database/],
    ['redis://one,two', /must name one host/],
    ['redis://', /must name one host/],
    ['redis://host:0', /port 0/],
    ['redis://host:99999', /malformed/],
    ['host:6379', /write redis:\/\//],
    ['user:pass@host', /write redis:\/\//],
    ['/run/redis.sock', /a Unix socket is not supported/],
    ['unix:///run/redis.sock', /unix:\/\/ is not a Redis URL/],
    ['http://host:6379', /http:\/\/ is not a Redis URL/],
    ['', /write redis:\/\//],
  ];
  for (const [url, sentence] of refused) {
    test(`refuses ${JSON.stringify(url)}`, () => assert.match(String(readRedisUrl(url)), sentence));
  }
});

test('the shown URL contains no part of a password, even if the URL is malformed', () => {
  const secrets = ['s3cr3t', 's3/cr3t', 's3?cr3t', 's3#cr3t', 's3@cr3t', 's3 cr3t', 's3%cr3t', 's3:cr3t', '53/cr3t'];
  const forms = (one: string) => [
    `redis://:${one}@host:1/2`,
    `redis://user:${one}@host`,
    `redis://${one}@host`,
    `redis://host?password=${one}`,
    `redis://host/${one}@`,
    `:${one}@host`,
    `${one}@host`,
    `unix://${one}@/run/redis.sock`,
  ];
  for (const url of secrets.flatMap(forms)) {
    for (const shown of [displayRedisUrl(url), maskedRedisUrl(url) ?? '', String(readRedisUrl(url))]) {
      assert.doesNotMatch(shown.replaceAll('[object Object]', ''), /cr3t|s3|53/, url);
    }
  }
});
