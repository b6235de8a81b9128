import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, globSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { SETTINGS } from '../../src/config.ts';
import { runChild } from '../support/child.ts';
import { scratch } from '../support/scratch.ts';

/** What `deploy/` says about settings, capabilities and times is the same as what the code and docker-compose.yml say. */

const root = join(import.meta.dirname, '../..');
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const worker = read('deploy/kubernetes/base/worker.yaml');
const unit = read('deploy/systemd/unpackd-worker.service');
const has = (program: string) => spawnSync(program, ['--help'], { stdio: 'ignore' }).error === undefined;

test('every setting that a manifest or a unit names exists', () => {
  const files = globSync(['deploy/kubernetes/**/*', 'deploy/systemd/*', 'docker-compose.yml'], { cwd: root });
  const ofAws = ['ACCESS_KEY_ID', 'SECRET_ACCESS_KEY', 'CONFIG_FILE', 'SHARED_CREDENTIALS_FILE'].map(
    (name) => `AWS_${name}`,
  );
  const known = new Set([...Object.keys(SETTINGS), ...ofAws]);
  // those that only docker-compose.yml replaces
  const others = new Set(['UNPACK_STORE']);
  const names = files
    .filter((path) => /\.(yaml|yml|env|service)$/.test(path))
    .flatMap((path) =>
      [...read(path).matchAll(/\b(?:UNPACK|REDIS|S3|AWS)_[A-Z_0-9]+\b/g)].map(([name]) => `${path}: ${name}`),
    );
  assert.ok(names.length > 40);
  const unknown = names.filter((line) => {
    const name = line.split(': ')[1] ?? '';
    const isOther = line.startsWith('docker-compose.yml') && (others.has(name) || /^(S3|REDIS)_/.test(name));
    return !known.has(name) && !isOther;
  });
  assert.deepEqual(unknown, []);
});

test('a worker has the same capabilities everywhere', () => {
  const compose = read('docker-compose.yml');
  const added = [...(/cap_add:\n((?:\s+- .*\n)+)/.exec(compose)?.[1] ?? '').matchAll(/- ([A-Z_]+)/g)].map(
    ([, name]) => name,
  );
  assert.equal(added.length, 7);
  const inPod = /add: \[(.*)\]/.exec(worker)?.[1]?.split(', ');
  const inUnit = /^CapabilityBoundingSet=(.+)$/m
    .exec(unit)?.[1]
    ?.split(' ')
    .map((name) => name.replace('CAP_', ''));
  assert.deepEqual(inPod, added);
  assert.deepEqual(inUnit, added);
});

test('a worker has ten seconds more than its grace time before it is killed', () => {
  const grace = Number.parseInt(SETTINGS.UNPACK_GRACE.fallback ?? '', 10);
  assert.equal(Number(/terminationGracePeriodSeconds: (\d+)/.exec(worker)?.[1]), grace + 10);
  assert.equal(Number(/^TimeoutStopSec=(\d+)$/m.exec(unit)?.[1]), grace + 10);
});

describe('systemd', { skip: has('systemd-analyze') ? false : 'systemd-analyze is not installed' }, () => {
  for (const [name, exposure] of [
    ['worker', 3.4],
    ['board', 1.4],
    ['snapshotter', 2.8],
  ] as const) {
    test(`finds no fault in unpackd-${name}.service, and rates its exposure with ${exposure} at most`, () => {
      using folder = scratch();
      const units = join(folder.path, 'etc/systemd/system');
      cpSync(join(root, 'deploy/systemd'), units, { recursive: true });
      mkdirSync(join(folder.path, 'usr/lib/systemd'), { recursive: true });
      cpSync('/lib/systemd/system', join(folder.path, 'usr/lib/systemd/system'), {
        recursive: true,
        verbatimSymlinks: true,
      });
      mkdirSync(join(folder.path, 'usr/local/bin'), { recursive: true });
      writeFileSync(join(folder.path, 'usr/local/bin/unpackd'), '#!/bin/sh\n', { mode: 0o755 });
      const analyze = (...args: string[]) =>
        runChild('systemd-analyze', [...args, `--root=${folder.path}`, `unpackd-${name}.service`]);
      const verified = analyze('verify');
      assert.equal(`${verified.stdout}${verified.stderr}`, '');
      assert.equal(verified.status, 0);
      const rated = analyze('security', '--offline=yes');
      const rating = Number(/exposure level for \S+: ([\d.]+)/.exec(rated.stdout)?.[1]);
      assert.ok(rating <= exposure, rated.stdout);
    });
  }
});
