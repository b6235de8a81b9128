import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { startChild } from '../support/child.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';
import { finished, MAIN, runCli } from './run-cli.ts';

const COMMANDS = [
  'worker',
  'enqueue',
  'status',
  'cancel',
  'queue',
  'retry',
  'apply',
  'push',
  'snapshots',
  'images',
  'snapshotter',
  'layer',
  'board',
  'settings',
  'doctor',
  'demo',
];
const SUBCOMMANDS = [
  'ls',
  'stat',
  'usage',
  'mount',
  'mounts',
  'umount',
  'rm',
  'cleanup',
  'release',
  'backup',
  'recover',
];

/** Asserts one sentence on stderr with the code and without a stack. */
function assertSentence(stderr: string, code: string, contents: RegExp): void {
  assert.match(stderr, new RegExp(`^unpackd: \\[${code}\\] [^\\n]+\\n$`));
  assert.match(stderr, contents);
  assert.doesNotMatch(stderr, /\n\s+at |node:internal/);
}

describe('help', () => {
  test('unpackd --help names every command and shows examples', async () => {
    const { status, stdout, stderr } = await runCli(['--help']);
    assert.equal(status, 0);
    assert.equal(stderr, '');
    for (const name of COMMANDS) assert.match(stdout, new RegExp(`^  ${name}\\b`, 'm'));
    assert.match(stdout, /Examples:/);
  });

  for (const name of COMMANDS) {
    test(`unpackd ${name} --help explains itself on stdout`, async () => {
      const { status, stdout, stderr } = await runCli([name, '--help']);
      assert.equal(status, 0, stderr);
      assert.equal(stderr, '');
      assert.match(stdout, new RegExp(`^Usage: unpackd ${name} `));
    });
  }

  for (const name of SUBCOMMANDS) {
    test(`unpackd snapshots ${name} --help explains itself on stdout`, async () => {
      const { status, stdout } = await runCli(['snapshots', name, '--help']);
      assert.equal(status, 0);
      assert.match(stdout, new RegExp(`^Usage: unpackd snapshots ${name} `));
    });
  }

  test('the help of a command names the environment variables of its settings', async () => {
    const { stdout } = await runCli(['enqueue', '--help']);
    assert.match(stdout, /--redis-url <value>[^-]*REDIS_URL/);
  });

  test('a password is no flag, because every user of the machine can see flags', async () => {
    const { stdout } = await runCli(['board', '--help']);
    assert.doesNotMatch(stdout, /--board-password/);
    assert.match(stdout, /UNPACK_BOARD_PASSWORD/);
  });

  test('unpackd --version prints the version alone', async () => {
    const { status, stdout } = await runCli(['--version']);
    assert.equal(status, 0);
    assert.match(stdout, /^\d+\.\d+\.\d+\n$/);
  });

  for (const args of [[], ['snapshots'], ['images']]) {
    test(`unpackd ${args.join(' ')} without a command names --help`, async () => {
      const { status, stderr } = await runCli(args);
      assertSentence(stderr, 'USAGE', /no command was given: --help lists the commands/);
      assert.equal(status, 2);
    });
  }
});

test('every command of unpackd images explains itself on stdout', async () => {
  for (const name of ['ls', 'inspect', 'rm', 'pin', 'unpin']) {
    const { status, stdout } = await runCli(['images', name, '--help']);
    assert.equal(status, 0);
    assert.match(stdout, new RegExp(`^Usage: unpackd images ${name} `));
  }
});

describe('wrong use exits with 2 and one sentence', () => {
  const cases: readonly (readonly [title: string, args: readonly string[], contents: RegExp])[] = [
    ['an unknown command', ['aply'], /unknown command 'aply': did you mean apply\?/],
    ['an unknown option', ['apply', './x:y', '--rot', '/tmp'], /unknown option '--rot': did you mean --root\?/],
    ['a missing argument', ['status'], /missing required argument 'job'/],
    ['an argument too many', ['status', 'a', 'b'], /too many arguments/],
    ['an unknown subcommand', ['snapshots', 'list'], /unknown command 'list'/],
    ['no image', ['enqueue'], /either IMAGE.*or --payload FILE/],
    ['an image and a payload', ['enqueue', 's3://b:t', '--payload', 'x.json'], /either IMAGE.*or --payload FILE/],
    ['an address of another kind', ['apply', 'docker://alpine:3'], /docker:\/\/ cannot be read; give s3:\/\//],
    ['no bucket', ['enqueue', 's3://:tag'], /no bucket/],
    ['no tag', ['enqueue', 's3://bucket/app'], /s3:\/\/bucket\/app has no tag and no digest: write/],
    ['an empty tag', ['apply', './layout:'], /no tag after the colon/],
    ['a wrong digest', ['apply', './layout@sha256:12'], /"sha256:12".*is not a digest/],
    ['a folder for a job', ['enqueue', './layout:app'], /workers read from buckets only/],
    ['a label without a value', ['enqueue', 's3://b/p:t', '--label', 'x'], /--label "x": write key=value/],
    ['all platforms and one more', ['enqueue', 's3://b/p:t', '--platform', 'all', 'linux/arm64'], /--platform all/],
    ['an unknown layout', ['apply', 's3://b:t', '--layout', 'tar'], /'tar' is invalid.*oci, distribution, keys/],
    ['a number that is none', ['enqueue', 's3://b:t', '--priority', 'high'], /--priority.*whole number/],
    ['a payload that is not there', ['enqueue', '--payload', '/nowhere.json'], /\/nowhere\.json cannot be read/],
    [
      'a password in a flag',
      ['status', 'x', '--redis-url', 'redis://:hidden@h'],
      /--redis-url takes no password.*REDIS_PASSWORD_FILE/,
    ],
    ['the value of an unknown flag, which is not told', ['board', '--board-password=hidden'], /'--board-password'$/m],
    ['an empty job', ['status', ''], /JOB is empty/],
    ['an empty snapshot, which must not mean the only one', ['snapshots', 'rm', ''], /KEY is empty/],
    ['an empty image', ['images', 'rm', 'app:1', ''], /IMAGE is empty/],
    [
      'an unknown document',
      ['images', 'inspect', 'a', '--document', 'tar'],
      /'tar' is invalid.*manifest, config, index/,
    ],
    ['an empty folder', ['snapshots', 'umount', ''], /is empty/],
    ['an empty layer', ['layer', 'ls', ''], /BLOB is empty/],
    ['an empty value', ['doctor', '--bucket', ''], /the value of --bucket is empty/],
    ['a folder for a payload', ['enqueue', '--payload', '/'], /\/ cannot be read: EISDIR/],
    ['a wrong digest of a layer', ['layer', 'ls', './layout@sha256:12'], /"sha256:12".*is not a digest/],
    ['a setting as a flag', ['apply', './x:y', '--threads', '0'], /--threads="0": write a whole number from 1 to 256/],
  ];
  for (const [title, args, contents] of cases) {
    test(title, async () => {
      const { status, stdout, stderr } = await runCli(args);
      assertSentence(stderr, 'USAGE', contents);
      assert.equal(status, 2);
      assert.equal(stdout, '');
      assert.doesNotMatch(stderr, /hidden/);
    });
  }

  test('a wrong environment variable is named', async () => {
    const { status, stderr } = await runCli(['status', 'x'], { env: { UNPACK_GRACE: 'soon', REDIS_URL: 'http://x' } });
    assertSentence(stderr, 'INVALID_SETTING', /REDIS_URL="http:\/\/x": .*; UNPACK_GRACE="soon": write a time/);
    assert.equal(status, 2);
  });

  test('stdin that is not JSON', async () => {
    const { status, stderr } = await runCli(['enqueue', '--payload', '-'], { stdin: '{"version": 1,' });
    assertSentence(stderr, 'USAGE', /stdin is not JSON/);
    assert.equal(status, 2);
  });
});

test('a payload that is not JSON is not quoted, because it may contain a secret', async () => {
  for (const stdin of ['\u0000\u0001\u001b[2J', '1\n2\n', '', '{"password": "hidden" x}']) {
    const { status, stderr } = await runCli(['enqueue', '--payload', '-'], { stdin });
    assertSentence(stderr, 'USAGE', /stdin is not JSON: /);
    assert.doesNotMatch(stderr, /hidden/);
    assert.equal(status, 2);
  }
});

test('a named pipe is refused as a payload, because it may block without end', async () => {
  using folder = scratch();
  const pipe = join(folder.path, 'pipe');
  execFileSync('mkfifo', [pipe]);
  const { status, stderr } = await runCli(['enqueue', '--payload', pipe]);
  assertSentence(stderr, 'USAGE', /is a named pipe: give a file, or - for stdin/);
  assert.equal(status, 2);
});

test('an interrupt ends the wait for a payload on stdin', async () => {
  await using child = startChild(process.execPath, [MAIN, 'enqueue', '--payload', '-'], {
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  const end = finished(child);
  // the handlers of signals are there before the first byte is taken; a pipe that takes more than it holds shows that
  await new Promise<void>((resolve) => child.stdin?.write(' '.repeat(1 << 20), () => resolve()));
  child.kill('SIGINT');
  const { status, stderr } = await end;
  assertSentence(stderr, 'CANCELLED', /interrupted by SIGINT/);
  assert.equal(status, 130);
});

test('snapshots rm refuses a key of fewer than four characters, even for the only snapshot', async () => {
  using folder = scratch();
  const app = imageOf([layerOf(tar(file('hello', 'world')))]);
  await writeLayout(join(folder.path, 'layout'), { app });
  const root = ['--root', join(folder.path, 'store')];
  const squash = process.getuid?.() === 0 ? [] : ['--ownership', 'squash'];
  const applied = await runCli(['apply', `${folder.path}/layout:app`, ...root, '--snapshotter', 'native', ...squash]);
  assert.equal(applied.status, 0, applied.stderr);
  const native = [...root, '--snapshotter', 'native'];
  for (const key of ['s', 'sha256:', app.chainId.slice(0, 9)]) {
    const { status, stderr } = await runCli(['snapshots', 'rm', key, ...native]);
    assertSentence(stderr, 'USAGE', /is too short: write at least 4 characters/);
    assert.equal(status, 2);
  }
  assert.equal((await runCli(['snapshots', 'stat', app.chainId.slice(0, 12), ...native])).status, 0);
});

describe('failures', () => {
  test('a payload of the wrong form is INVALID_JOB, without asking Redis', async () => {
    const { status, stderr } = await runCli(['enqueue', '--payload', '-'], { stdin: '{"version": 1, "imgae": "x"}' });
    assertSentence(stderr, 'INVALID_JOB', /imgae/);
    assert.equal(status, 1);
  });

  test('a malformed platform is INVALID_JOB', async () => {
    const { status, stderr } = await runCli(['enqueue', 's3://bucket/p:t', '--platform', 'amd64']);
    assertSentence(stderr, 'INVALID_JOB', /platform/);
    assert.equal(status, 1);
  });

  test('a Redis that cannot be reached is named, and the command exits with 1', async () => {
    const { status, stderr } = await runCli(['status', 'x'], { env: { REDIS_URL: 'redis://user:secret@127.0.0.1:1' } });
    assertSentence(stderr, 'REDIS_UNAVAILABLE', /127\.0\.0\.1:1/);
    assert.doesNotMatch(stderr, /secret/);
    assert.equal(status, 1);
  });

  test('--json prints the failure on stdout as one document', async () => {
    const { status, stdout } = await runCli(['apply', 'ftp://x:y', '--json']);
    assert.equal(status, 2);
    const { error } = JSON.parse(stdout);
    assert.equal(error.code, 'USAGE');
    assert.match(error.message, /ftp/);
  });

  test('UNPACK_LOG_LEVEL=debug adds the stack', async () => {
    const { stderr } = await runCli(['apply', 'ftp://x:y'], { env: { UNPACK_LOG_LEVEL: 'debug' } });
    assert.match(stderr, /\n\s+at /);
  });
});

test('a reader that closes the pipe early causes no failure', async () => {
  await using child = startChild('bash', ['-o', 'pipefail', '-c', `"${process.execPath}" "${MAIN}" settings | true`], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const { status, stderr } = await finished(child);
  assert.equal(stderr, '');
  assert.equal(status, 0);
});

describe('settings', () => {
  test('a value from the environment is marked, and no password is shown', async () => {
    const env = { UNPACK_JOBS: '7', REDIS_URL: 'redis://u:hidden@h:1', UNPACK_BOARD_PASSWORD: 'hidden' };
    const { status, stdout } = await runCli(['settings', '--json'], { env });
    assert.equal(status, 0);
    const { settings } = JSON.parse(stdout);
    const jobs = settings.find((one: { name: string }) => one.name === 'UNPACK_JOBS');
    assert.deepEqual(jobs, { name: 'UNPACK_JOBS', value: '7', from: 'environment' });
    assert.doesNotMatch(stdout, /hidden/);
  });
});
