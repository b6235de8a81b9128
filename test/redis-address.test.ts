import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { displayRedisUrl, maskedRedisUrl, readRedisUrl } from '../src/redis-address.ts';

describe('readRedisUrl', () => {
  const read: readonly (readonly [url: string, expected: object])[] = [
    ['redis://host', { kind: 'single', servers: [{ host: 'host', port: 6379 }], tls: false, db: 0 }],
    ['redis://host:1/', { servers: [{ host: 'host', port: 1 }], db: 0 }],
    ['redis://host/15', { db: 15 }],
    ['rediss://host', { tls: true }],
    // ioredis looks for the scheme in lower case only, and would send the password without TLS
    ['REDISS://host', { tls: true }],
    ['valkeys://host', { tls: true }],
    ['redis://[::1]:7', { servers: [{ host: '::1', port: 7 }] }],
    ['redis://user:pass@host', { username: 'user', password: 'pass' }],
    ['redis://:pass@host', { username: undefined, password: 'pass' }],
    ['redis://user@host', { username: 'user', password: undefined }],
    ['redis://:p%40s%2Fs%3F%23%25%20@host', { password: 'p@s/s?#% ' }],
    ['redis://:a:b@host', { password: 'a:b' }],
    ['redis://:a@b@host', { servers: [{ host: 'host', port: 6379 }], password: 'a@b' }],
    ['redis://host?family=6', { family: 6 }],
    [
      'redis+sentinel://user:p%40ss@one:1,two,[::1]:3/my-master.1',
      {
        kind: 'sentinel',
        servers: [
          { host: 'one', port: 1 },
          { host: 'two', port: 26379 },
          { host: '::1', port: 3 },
        ],
        primaryName: 'my-master.1',
        username: 'user',
        password: 'p@ss',
        db: 0,
      },
    ],
    ['redis+sentinel://host/name/5', { primaryName: 'name', db: 5 }],
    ['REDISS+Sentinel://host/name', { kind: 'sentinel', tls: true }],
    [
      'valkeys+cluster://a,b:1',
      {
        kind: 'cluster',
        tls: true,
        servers: [
          { host: 'a', port: 6379 },
          { host: 'b', port: 1 },
        ],
      },
    ],
    ['redis+cluster://host/0', { kind: 'cluster', db: 0 }],
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
    [
      'redis+sentinel://one:1,two:2',
      /name of the primary at its sentinels must follow the hosts: write redis\+sentinel:/,
    ],
    ['redis+sentinel://one/name/x', /name of the primary/],
    ['redis+sentinel://one,/name', /must name hosts, separated by commas/],
    ['redis+sentinel://one,two:0/name', /port 0/],
    ['redis+sentinel://:pa/ss@one,two/name', /percent-encode/],
    ['redis+cluster://one,two/1', /a cluster has no numbered databases: write redis\+cluster:/],
    ['redis+cluster://one;two', /must name hosts, separated by commas|malformed/],
    ['redis+tls://host', /redis\+tls:\/\/ is not a Redis URL/],
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
    `redis+sentinel://:${one}@host:1,other/name`,
    `redis+sentinel://host,other/name?password=${one}`,
    `redis+cluster://user:${one}@host,other:2`,
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
