import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chownSync,
  closeSync,
  ftruncateSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { scratch } from '../support/scratch.ts';
import { agree, started } from './agreement.ts';
import { layersOf } from './conformance.ts';

const running = await started();

/** Archives of the same folder as other programs write them: `{}` stands for the archive, the folder is the current one. */
const WRITERS: Readonly<Record<string, readonly string[]>> = {
  ...gnuTar('v7', '--format=v7'),
  ...gnuTar('oldgnu', '--format=oldgnu'),
  ...gnuTar('gnu', '--format=gnu'),
  ...gnuTar('ustar', '--format=ustar'),
  ...gnuTar('posix', '--format=posix'),
  ...gnuTar('with attributes', '--format=posix', '--xattrs', '--xattrs-include=*', '--acls'),
  ...gnuTar('sparse 0.0', '--format=posix', '--sparse', '--sparse-version=0.0'),
  ...gnuTar('sparse 0.1', '--format=posix', '--sparse', '--sparse-version=0.1'),
  ...gnuTar('sparse 1.0', '--format=posix', '--sparse', '--sparse-version=1.0'),
  ...gnuTar(
    'incremental headers left out',
    '--format=gnu',
    '--atime-preserve',
    '--no-recursion',
    '--null',
    '-T',
    'names',
  ),
  'bsdtar pax': ['bsdtar', '--format=pax', '-cf', '{}', '.'],
  'bsdtar ustar': ['bsdtar', '--format=ustar', '-cf', '{}', '.'],
  'bsdtar gnutar': ['bsdtar', '--format=gnutar', '-cf', '{}', '.'],
  'bsdtar with attributes': ['bsdtar', '--format=pax', '--xattrs', '--acls', '-cf', '{}', '.'],
  'busybox tar': ['busybox', 'tar', '-cf', '{}', '.'],
  ...pythonTar('USTAR_FORMAT'),
  ...pythonTar('GNU_FORMAT'),
  ...pythonTar('PAX_FORMAT'),
  'node-tar': [
    process.execPath,
    '--input-type=module',
    '-e',
    "import { create } from 'tar'; create({ sync: true, file: '{}', portable: false }, ['.'])",
  ],
  'node-tar, portable': [
    process.execPath,
    '--input-type=module',
    '-e',
    "import { create } from 'tar'; create({ sync: true, file: '{}', portable: true }, ['.'])",
  ],
};

function gnuTar(name: string, ...options: string[]): Record<string, readonly string[]> {
  const what = options.includes('-T') ? [] : ['.'];
  return { [`GNU tar, ${name}`]: ['tar', ...options, '-cf', '{}', ...what] };
}

function pythonTar(format: string): Record<string, readonly string[]> {
  const program = `import tarfile; archive = tarfile.open('{}', 'w', format=tarfile.${format}); archive.add('.'); archive.close()`;
  return { [`Python tarfile, ${format}`]: ['python3', '-c', program] };
}

describe('archives of other programs become the same folders', () => {
  for (const [name, command] of Object.entries(WRITERS)) {
    it(name, { skip: running.skip || isMissing(command[0]) }, async () => {
      if (running.skip !== false) return;
      using dir = scratch();
      const folder = join(dir.path, 'folder');
      fillFolder(folder, name);
      const archive = join(dir.path, 'archive.tar');
      const [program = '', ...rest] = command.map((word) => word.replaceAll('{}', archive));
      // node-tar is found from here
      const env = { ...process.env, LC_ALL: 'C.UTF-8' };
      const done = spawnSync(program, program === process.execPath ? withFolder(rest, folder) : rest, {
        cwd: program === process.execPath ? import.meta.dirname : folder,
        env,
        encoding: 'utf8',
      });
      assert.equal(done.status, 0, done.stderr);
      await agree(running.suite, layersOf([readFileSync(archive)]));
    });
  }
});

function isMissing(program: string | undefined): string | false {
  if (program === undefined || program.startsWith('/')) return false;
  return spawnSync('which', [program]).status === 0 ? false : `${program} is not installed`;
}

const withFolder = (words: readonly string[], folder: string): string[] =>
  words.map((word) => word.replace('sync: true', `sync: true, cwd: ${JSON.stringify(folder)}`));

/** What the formats differ in: long names, long links, large numbers, holes, fractions of seconds, attributes. */
function fillFolder(folder: string, writer: string): void {
  const at = (name: string) => join(folder, name);
  const small = writer.includes('v7') || writer.includes('ustar') || writer.includes('USTAR');
  mkdirSync(at('dir/sub'), { recursive: true });
  writeFileSync(at('dir/file'), 'content\n', { mode: 0o640 });
  writeFileSync(at('dir/sub/program'), '#!/bin/sh\n', { mode: 0o755 });
  chownSync(at('dir/file'), 1000, 1001);
  writeFileSync(at('large'), Buffer.alloc(300_000, 'abc'));
  writeFileSync(at('empty'), '');
  symlinkSync('dir/file', at('link'));
  symlinkSync(small ? 'y'.repeat(90) : `${'y'.repeat(120)}/${'z'.repeat(120)}`, at('long link'));
  linkSync(at('dir/file'), at('second'));
  if (!writer.includes('v7')) {
    spawn('mkfifo', at('pipe'));
    spawn('mknod', at('null'), 'c', '1', '3');
  }
  writeFileSync(at(small ? 'n'.repeat(90) : 'n'.repeat(200)), 'a long name');
  writeFileSync(at('ünïcödé'), 'not ASCII');
  sparseFile(at('sparse'));
  if (!small) chownSync(at('empty'), 3_000_000, 3_000_001);
  spawn('setfattr', '-n', 'user.conformance', '-v', 'value', at('large'));
  spawn('setfacl', '-m', 'u:1000:r', at('empty'));
  spawn('chmod', '4755', at('dir/sub/program'));
  // before the suite began, so that it counts: see `Comparison.since`
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort().reverse()) {
    lutimesSync(at(name), 1_500_000_000.25, 1_600_000_000.123456);
  }
  const names = ['.', ...readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort()];
  if (writer.includes('incremental')) writeFileSync(at('names'), `${names.join('\0')}\0`);
  utimesSync(folder, 1_500_000_000, 1_600_000_000);
}

/** Data and holes in turn, more than the map of one header holds, and a hole at the end. */
function sparseFile(path: string): void {
  const fd = openSync(path, 'w');
  writeSync(fd, Buffer.alloc(5000, 'd'), 0, 5000, 0);
  for (let i = 1; i <= 30; i++) writeSync(fd, Buffer.alloc(4096, 's'), 0, 4096, i << 16);
  ftruncateSync(fd, 32 << 16);
  closeSync(fd);
}

function spawn(program: string, ...words: string[]): void {
  const done = spawnSync(program, words, { encoding: 'utf8' });
  // attributes are a bonus where there are programs to set them
  if (done.error === undefined) assert.equal(done.status, 0, done.stderr);
}
