import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type Config, loadConfig, SETTINGS, type SettingName } from '../src/config.ts';
import { ConfigError } from '../src/errors.ts';
import { queueSettings } from '../src/queue/queue-settings.ts';

const names = Object.keys(SETTINGS) as SettingName[];
/** Maximum milliseconds of setTimeout. A longer timer fires at once (Node documentation, timers). */
const LONGEST_TIMER = 2 ** 31 - 1;
/** Default messages of zod, which no setting may show. */
const ZODS_WORDS = /Invalid|expected|received|Too (small|big)|Unrecognized/i;

function problemOf(name: SettingName, value: string): string | undefined {
  try {
    loadConfig({}, { [name]: value });
    return undefined;
  } catch (error) {
    assert.ok(error instanceof ConfigError);
    return error.message;
  }
}

/** The settings of kind `duration`. */
const durations = names.filter(
  (name) => problemOf(name, '20s') === undefined && /a time/.test(problemOf(name, 'x') ?? ''),
);
const sizes = names.filter((name) => /a size/.test(problemOf(name, 'x') ?? ''));
const counts = names.filter((name) => /whole number/.test(problemOf(name, 'x') ?? ''));

test('this file tests every kind of setting', () => {
  assert.ok(durations.length >= 6 && sizes.length >= 3 && counts.length >= 8);
});

describe('durations', () => {
  for (const name of durations) {
    test(`${name} refuses a time that a timer cannot hold`, () => {
      for (const text of ['600h', '25d', '2147483648ms', '9007199254740993ms', `${'9'.repeat(400)}h`]) {
        assert.match(
          problemOf(name, text) ?? '',
          new RegExp(`^${name}="${text}": write a time from \\S+ to \\S+`),
          text,
        );
      }
    });
    test(`${name} accepts the bounds that its message names, and a timer can hold them`, () => {
      const [, least = '', most = ''] = /from (\S+) to (\S+)/.exec(problemOf(name, 'x') ?? '') ?? [];
      for (const text of [least, most]) assert.equal(problemOf(name, text), undefined, text);
      // four seconds are added to UNPACK_GRACE, and half of UNPACK_LOCK is an interval
      assert.ok(Number(loadConfig({}, { [name]: most })[name]) + 10_000 < LONGEST_TIMER);
    });
  }
  test('units are read', () => {
    for (const [text, milliseconds] of [
      ['1d', 86_400_000],
      ['1.5h', 5_400_000],
      ['2 m', 120_000],
      [' 250ms\r', 250],
    ] as const) {
      assert.equal(loadConfig({}, { UNPACK_JOB_TIMEOUT: text }).UNPACK_JOB_TIMEOUT, milliseconds);
    }
  });
});

test('every number has bounds, and a text that is no number is refused in one sentence', () => {
  const nonsense = [
    '-1',
    '1e9',
    'NaN',
    'Infinity',
    '0x10',
    '1_000',
    '٣',
    `${'9'.repeat(400)}`,
    '1.5.5',
    ' ',
    '+1',
    '1,5',
  ];
  for (const name of [...durations, ...sizes, ...counts]) {
    for (const text of nonsense) {
      const problem = problemOf(name, text);
      assert.match(problem ?? '', new RegExp(`^${name}=".*": write a \\w+.* from \\S+ to \\S+`), `${name} ${text}`);
      assert.doesNotMatch(problem ?? '', /\n/);
    }
  }
});

test('no value makes a setting answer with a message of its parser', () => {
  const nonsense = [
    '',
    'x',
    '\u0000',
    'a\nb',
    '-1',
    '1e99',
    'null',
    '[]',
    '://',
    'redis://',
    'http://',
    'a'.repeat(5000),
  ];
  for (const name of names) {
    for (const text of nonsense) assert.doesNotMatch(problemOf(name, text) ?? '', ZODS_WORDS, `${name} ${text}`);
  }
});

test('an empty variable counts as unset, and spaces around a value are ignored', () => {
  const empty = Object.fromEntries(names.map((name) => [name, '']));
  assert.deepEqual(loadConfig({}, empty), loadConfig({}, {}));
  assert.equal(loadConfig({}, { UNPACK_JOBS: ' 7 \r\n' }).UNPACK_JOBS, 7);
});

test('a queue name with a colon is refused as a setting', () => {
  assert.match(problemOf('UNPACK_QUEUE', 'a:b') ?? '', /^UNPACK_QUEUE="a:b": write a name without a colon$/);
});

test('settings of Redis that contradict each other are refused, with what to write', () => {
  const cases: readonly (readonly [env: Record<string, string>, sentence: RegExp])[] = [
    [
      { REDIS_URL: 'redis+cluster://host' },
      /^UNPACK_REDIS_PREFIX=bull has no hash tag, .*set UNPACK_REDIS_PREFIX=\{bull\} for every worker, producer and board$/,
    ],
    [{ REDIS_URL: 'redis+cluster://host', UNPACK_REDIS_PREFIX: '{}x' }, /set UNPACK_REDIS_PREFIX=\{x\} /],
    [{ REDIS_URL: 'redis+cluster://host', UNPACK_REDIS_PREFIX: 'a}{' }, /set UNPACK_REDIS_PREFIX=\{a\} /],
    [
      { REDIS_TLS_CA: '/ca.pem', REDIS_URL: 'redis://:s3cr3t@host' },
      /^REDIS_TLS_CA is set, .*write rediss:\/\/host:6379, or unset REDIS_TLS_CA$/,
    ],
    [
      { REDIS_TLS_SERVER_NAME: 'x', REDIS_URL: 'redis+sentinel://a,b/n' },
      /write rediss\+sentinel:\/\/a:26379,b:26379\/n,/,
    ],
    [
      { REDIS_TLS_CERT: '/c', REDIS_URL: 'rediss://host' },
      /^REDIS_TLS_CERT is set and REDIS_TLS_KEY is not: set both, or none$/,
    ],
    [{ REDIS_TLS_KEY_PASSWORD_FILE: '/c', REDIS_URL: 'rediss://host' }, /without REDIS_TLS_KEY: set both, or none/],
    [{ REDIS_SENTINEL_PASSWORD_FILE: '/p' }, /REDIS_URL names no sentinels: write redis\+sentinel:/],
    [
      { REDIS_SENTINEL_USERNAME: 'u', REDIS_URL: 'redis+sentinel://host/name' },
      /REDIS_SENTINEL_USERNAME is set without a password/,
    ],
  ];
  for (const [env, sentence] of cases) {
    assert.throws(
      () => loadConfig({}, env),
      (error: Error) => {
        assert.match(error.message, sentence);
        assert.doesNotMatch(error.message, /s3cr3t/);
        return true;
      },
    );
  }
  for (const prefix of ['{bull}', 'a{b}c', '{a}}']) {
    loadConfig({}, { REDIS_URL: 'redis+cluster://host', UNPACK_REDIS_PREFIX: prefix });
  }
});

test('two passwords of Redis, and a user without a password, are refused', () => {
  const both = { REDIS_URL: 'redis://:s3cr3t@host', REDIS_PASSWORD_FILE: '/run/secrets/redis' };
  assert.throws(() => loadConfig({}, both), /REDIS_URL has a password, and REDIS_PASSWORD_FILE=.*remove one of them/);
  assert.throws(
    () => loadConfig({}, { REDIS_URL: 'redis://s3cr3t@host' }),
    (error: Error) => {
      assert.match(error.message, /^REDIS_URL has a user but no password/);
      assert.doesNotMatch(error.message, /s3cr3t/);
      return true;
    },
  );
  loadConfig({}, { REDIS_URL: 'redis://user@host', REDIS_PASSWORD_FILE: '/run/secrets/redis' });
});

test('free space is a share of the disk or bytes, both marks are set or none, and LOW is less than HIGH', () => {
  const marks = (low: string, high: string): Pick<Config, 'UNPACK_GC_LOW' | 'UNPACK_GC_HIGH'> =>
    loadConfig({}, { UNPACK_GC_LOW: low, UNPACK_GC_HIGH: high });
  assert.deepEqual(marks(' 10% ', '12.5 %').UNPACK_GC_LOW, { percent: 10 });
  assert.deepEqual(marks('10G', '20GiB').UNPACK_GC_HIGH, { bytes: 20 * 1024 ** 3 });
  assert.deepEqual(marks('5%', '20GiB').UNPACK_GC_LOW, { percent: 5 }, 'compared when the disk is known');
  assert.equal(marks('', '').UNPACK_GC_LOW, undefined);
  assert.throws(
    () => marks('10%', ''),
    /^ConfigError: UNPACK_GC_LOW is set and UNPACK_GC_HIGH is not: set both, or none$/,
  );
  assert.throws(() => marks('', '1GiB'), /^ConfigError: UNPACK_GC_HIGH is set and UNPACK_GC_LOW is not/);
  for (const [low, high] of [
    ['20%', '10%'],
    ['10%', '10%'],
    ['2GiB', '1GiB'],
  ] as const) {
    assert.throws(() => marks(low, high), /^ConfigError: UNPACK_GC_LOW=\S+( GiB)? is not less than UNPACK_GC_HIGH=/);
  }
  for (const wrong of ['100%', '0%', '-5%', '5 percent', '%', '1e3%', '1KiB', '9999TiB', 'ten']) {
    assert.match(
      problemOf('UNPACK_GC_LOW', wrong) ?? '',
      /: write a share of the disk from 0.1% to 99%, or bytes with/,
    );
  }
});

test('a producer reads only the settings of the queue, so that a wrong setting of the store does not stop it', () => {
  const env = { REDIS_URL: 'redis://queue.example:6380/2', UNPACK_QUEUE: 'images', UNPACK_GC_LOW: '1 banana' };
  const set = Object.entries(queueSettings(env)).filter(([, value]) => value !== undefined);
  assert.deepEqual(Object.fromEntries(set), {
    REDIS_URL: 'redis://queue.example:6380/2',
    UNPACK_QUEUE: 'images',
    UNPACK_JOB: 'unpack',
    UNPACK_REDIS_PREFIX: 'bull',
    UNPACK_REDIS_REPLICAS: 0,
  });
  assert.throws(() => queueSettings({ UNPACK_QUEUE: 'a:b' }), /UNPACK_QUEUE="a:b": write a name without a colon/);
  assert.throws(() => queueSettings({ REDIS_URL: 'redis://user@host' }), /REDIS_URL has a user but no password/);
});
