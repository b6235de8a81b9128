import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import type { Command } from 'commander';
import { Output } from '../../src/cli/output.ts';
import { flagOf } from '../../src/cli/settings.ts';
import { SECRET_SETTINGS, SETTINGS, type SettingName } from '../../src/config.ts';
import { scratch } from '../support/scratch.ts';
import { runCli } from './run-cli.ts';

const names = Object.keys(SETTINGS) as SettingName[];
const cli = { signal: new AbortController().signal, out: new Output(false) };
const QUEUE: readonly SettingName[] = [
  'REDIS_URL',
  'REDIS_PASSWORD_FILE',
  'REDIS_SENTINEL_USERNAME',
  'REDIS_SENTINEL_PASSWORD_FILE',
  'REDIS_TLS_CA',
  'REDIS_TLS_CERT',
  'REDIS_TLS_KEY',
  'REDIS_TLS_KEY_PASSWORD_FILE',
  'REDIS_TLS_SERVER_NAME',
  'UNPACK_QUEUE',
  'UNPACK_JOB',
  'UNPACK_REDIS_PREFIX',
];

/** Every command with its subcommands, as main.ts makes them. */
async function commands(): Promise<Command[]> {
  const made = [
    (await import('../../src/cli/worker.ts')).workerCommand(cli),
    (await import('../../src/cli/enqueue.ts')).enqueueCommand(cli),
    (await import('../../src/cli/status.ts')).statusCommand(cli),
    (await import('../../src/cli/cancel.ts')).cancelCommand(cli),
    (await import('../../src/cli/push.ts')).pushCommand(cli),
    (await import('../../src/cli/snapshots.ts')).snapshotsCommand(cli),
    (await import('../../src/cli/snapshotter.ts')).snapshotterCommand(cli),
    (await import('../../src/cli/layer.ts')).layerCommand(cli),
    (await import('../../src/cli/board.ts')).boardCommand(cli),
    (await import('../../src/cli/settings.ts')).settingsCommand(cli),
    (await import('../../src/cli/doctor.ts')).doctorCommand(cli),
  ];
  return made.flatMap((command) => [command, ...command.commands]);
}

/** Settings that accept any text: paths and lists. */
const ANY_TEXT: readonly SettingName[] = [
  'UNPACK_ROOT',
  'UNPACK_SNAPSHOTTER_SOCKET',
  'UNPACK_CONTAINERD_SOCKET',
  'REDIS_PASSWORD_FILE',
  'REDIS_SENTINEL_USERNAME',
  'REDIS_SENTINEL_PASSWORD_FILE',
  'REDIS_TLS_CA',
  'REDIS_TLS_CERT',
  'REDIS_TLS_KEY',
  'REDIS_TLS_KEY_PASSWORD_FILE',
  'REDIS_TLS_SERVER_NAME',
  'UNPACK_S3_ENDPOINTS',
  'UNPACK_S3_REQUESTER_PAYS',
  'AWS_CA_BUNDLE',
  'UNPACK_BUCKETS',
];

/** For each command the files that read settings. The command must take these settings as flags. */
const READERS: Readonly<Record<string, readonly string[]>> = {
  worker: [
    'workers/unpack.ts',
    'src/queue/worker.ts',
    'src/queue/worker-options.ts',
    'src/queue/processor.ts',
    'src/queue/retries.ts',
    'src/board/health.ts',
  ],
  apply: ['src/cli/apply.ts'],
  board: ['src/board/board.ts', 'src/board/access.ts'],
  doctor: ['src/cli/doctor.ts'],
  snapshots: ['src/cli/store-access.ts'],
  snapshotter: ['src/cli/snapshotter.ts'],
};

/** What `storePlace(config)` reads for the files that call it. */
const OF_THE_PLACE: readonly SettingName[] = [
  'UNPACK_ROOT',
  'UNPACK_SNAPSHOTTER',
  'UNPACK_CONTAINERD_SOCKET',
  'UNPACK_CONTAINERD_NAMESPACE',
  'UNPACK_CONTAINERD_SNAPSHOTTER',
];

describe('flags', () => {
  test('every setting is a flag of unpackd settings, except secrets', async () => {
    const settings = (await commands()).find((command) => command.name() === 'settings');
    const flags = settings?.options.map(({ long }) => long) ?? [];
    for (const name of names) assert.equal(flags.includes(flagOf(name)), !SECRET_SETTINGS.includes(name), name);
  });

  test('every setting is a flag of another command, too, except secrets', async () => {
    const working = (await commands()).filter((command) => command.name() !== 'settings');
    const flags = new Set(working.flatMap((command) => command.options.map(({ long }) => long)));
    for (const name of names) assert.equal(flags.has(flagOf(name)), !SECRET_SETTINGS.includes(name), name);
  });

  for (const [name, files] of Object.entries(READERS)) {
    test(`${name} takes every setting that it reads as a flag`, async () => {
      const { stdout } = await runCli([name, ...(name === 'snapshots' ? ['ls'] : []), '--help']);
      const root = join(import.meta.dirname, '../..');
      const read = files.flatMap((file) => {
        const text = readFileSync(join(root, file), 'utf8');
        const named = text.match(/\b(?:config|settings)\.[A-Z][A-Z0-9_]+/g) ?? [];
        return /\b(store|ownStore)Place\(/.test(text) ? [...named, ...OF_THE_PLACE] : named;
      });
      const wanted = new Set(read.map((text) => text.replace(/^\w+\./, '') as SettingName));
      assert.ok(wanted.size > 0);
      for (const setting of wanted) {
        if (SECRET_SETTINGS.includes(setting)) continue;
        // doctor has a flag of its own for buckets
        if (name === 'doctor' && setting === 'UNPACK_BUCKETS') continue;
        assert.match(stdout, new RegExp(`^ +${flagOf(setting)} <`, 'm'), setting);
      }
    });
  }

  for (const name of ['worker', 'enqueue', 'status', 'cancel', 'board']) {
    test(`${name} takes every setting of the queue as a flag`, async () => {
      const command = (await commands()).find((one) => one.name() === name);
      for (const setting of QUEUE)
        assert.ok(
          command?.options.some(({ long }) => long === flagOf(setting)),
          setting,
        );
    });
  }

  test('every flag of a setting refuses a wrong value with its own name and one sentence, in every command', async () => {
    for (const command of await commands()) {
      command.exitOverride().configureOutput({ writeErr: () => {}, writeOut: () => {} });
      for (const setting of names) {
        const option = command.options.find(({ long }) => long === flagOf(setting));
        // enqueue has an --attempts of its own, which is the job's
        if (option?.parseArg === undefined || command.name() === 'enqueue') continue;
        if (ANY_TEXT.includes(setting)) continue;
        assert.throws(
          () => option.parseArg?.('a\nb', undefined),
          (error: Error) =>
            error.message.startsWith(option.long ?? '?') && !/Invalid|expected|Too /.test(error.message),
          `${command.name()} ${option.long}`,
        );
      }
    }
  });
});

describe('unpackd settings', () => {
  test('says where each value comes from, and a flag overrides the environment', async () => {
    const env = { UNPACK_JOBS: '7', UNPACK_THREADS: '3' };
    const { status, stdout, stderr } = await runCli(['settings', '--json', '--jobs', '9'], { env });
    assert.equal(status, 0, stderr);
    const { settings } = JSON.parse(stdout) as { settings: { name: string; value: string; from: string }[] };
    const of = (name: string) => settings.find((one) => one.name === name);
    assert.deepEqual(of('UNPACK_JOBS'), { name: 'UNPACK_JOBS', value: '9', from: 'flag' });
    assert.deepEqual(of('UNPACK_THREADS'), { name: 'UNPACK_THREADS', value: '3', from: 'environment' });
    assert.deepEqual(of('UNPACK_LOCK'), { name: 'UNPACK_LOCK', value: '30s', from: 'default' });
    assert.deepEqual(
      settings.map(({ name }) => name),
      names,
    );
  });
});

describe('REDIS_PASSWORD_FILE', () => {
  const folder = scratch();
  after(() => folder[Symbol.dispose]());
  const written = (name: string, text: string) => {
    writeFileSync(join(folder.path, name), text);
    return join(folder.path, name);
  };
  const cases: readonly (readonly [title: string, file: string, contents: RegExp])[] = [
    ['that is not there', join(folder.path, 'nothing'), /the file does not exist/],
    ['that is a folder', folder.path, /it is a folder/],
    ['that is empty', written('empty', '\n'), /the file is empty/],
    ['that is long', written('long', 'x'.repeat(5000)), /it has 5000 bytes, which is too long for a password/],
    ['that has two lines', written('lines', 'one\ntwo\n'), /more than one line/],
    ['that is no file', '/dev/null', /it is not a regular file/],
  ];
  for (const [title, file, contents] of cases) {
    test(`a file ${title} is refused with its name and exit status 2`, async () => {
      const { status, stderr } = await runCli(['status', 'x', '--redis-password-file', file]);
      assert.match(stderr, /^unpackd: \[INVALID_SETTING\] REDIS_PASSWORD_FILE="[^\n]+\n$/);
      assert.match(stderr, contents);
      assert.equal(status, 2);
    });
  }
});
