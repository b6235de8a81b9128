import assert from 'node:assert/strict';
import { test } from 'node:test';
import { accessRule, isLoopback } from '../../src/board/access.ts';
import { loadConfig } from '../../src/config.ts';
import { ConfigError } from '../../src/errors.ts';

const settings = (flags: Record<string, string>) => loadConfig(flags, {});
const LOCAL = { host: '127.0.0.1:3000' };
const basic = (text: string) => ({ authorization: `Basic ${Buffer.from(text).toString('base64')}` });

test('without a user and a password the board refuses an address that other machines can reach', () => {
  for (const host of ['0.0.0.0', '::', '10.1.2.3', 'board.example']) {
    assert.throws(
      () => accessRule(settings({ UNPACK_BOARD_HOST: host })),
      (error: Error) =>
        error instanceof ConfigError && /set UNPACK_BOARD_USER and UNPACK_BOARD_PASSWORD/.test(error.message),
    );
  }
  accessRule(settings({ UNPACK_BOARD_HOST: '0.0.0.0', UNPACK_BOARD_USER: 'u', UNPACK_BOARD_PASSWORD: 'p' }));
});

test('a password without a user and a user without a password are refused', () => {
  assert.throws(() => accessRule(settings({ UNPACK_BOARD_PASSWORD: 'p' })), /UNPACK_BOARD_USER is not set/);
  assert.throws(() => accessRule(settings({ UNPACK_BOARD_USER: 'u' })), /UNPACK_BOARD_PASSWORD is not set/);
});

test('only addresses of this machine alone count as loopback', () => {
  assert.deepEqual(
    ['127.0.0.1', '127.9.9.9', '::1', '[::1]', 'localhost', 'LOCALHOST'].map(isLoopback),
    Array(6).fill(true),
  );
  assert.deepEqual(
    ['0.0.0.0', '', '127.0.0.1.example', 'localhost.example', '::', '128.0.0.1'].map(isLoopback),
    Array(6).fill(false),
  );
});

test('with a user, only this user and password are accepted', () => {
  const rule = accessRule(settings({ UNPACK_BOARD_USER: 'ann', UNPACK_BOARD_PASSWORD: 'pass:wörd' }));
  assert.equal(rule('GET', { ...LOCAL, ...basic('ann:pass:wörd') }), undefined);
  for (const headers of [{}, basic('ann:pass'), basic('bob:pass:wörd'), basic(''), { authorization: 'Bearer x' }]) {
    assert.equal(rule('GET', { ...LOCAL, ...headers })?.status, 401);
  }
});

test('without a user, a foreign host name that points to this machine is refused (DNS rebinding)', () => {
  const rule = accessRule(settings({}));
  assert.equal(rule('GET', LOCAL), undefined);
  assert.equal(rule('GET', { host: 'localhost:3000' }), undefined);
  assert.equal(rule('GET', { host: 'attacker.example:3000' })?.status, 403);
  assert.equal(rule('GET', {})?.status, 403);
});

test('other web pages cannot retry or remove jobs', () => {
  const rule = accessRule(settings({}));
  assert.equal(rule('PUT', LOCAL), undefined, 'curl');
  assert.equal(rule('PUT', { ...LOCAL, origin: 'http://127.0.0.1:3000' }), undefined, 'the board itself');
  assert.equal(rule('PUT', { ...LOCAL, origin: 'http://attacker.example' })?.status, 403);
  assert.equal(rule('POST', { ...LOCAL, origin: 'null' })?.status, 403);
  assert.equal(
    rule('GET', { ...LOCAL, origin: 'http://attacker.example' }),
    undefined,
    'reads are kept apart by the browser',
  );
});
