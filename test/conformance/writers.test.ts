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
import { type DiffId, digestOf } from '../../src/oci/digest.ts';
import { skipWithout } from '../support/present.ts';
import { scratch } from '../support/scratch.ts';
import { agree, STORE_TYPES, started } from './agreement.ts';
import { compareImage, layersOf, STORES } from './conformance.ts';

const running = await started();

/** A command that writes an archive of the current directory. `{}` is the path of the archive. */
type Command = readonly string[];

const WRITERS: Readonly<Record<string, Command>> = {
  'GNU tar, v7': gnuTar('--format=v7'),
  'GNU tar, oldgnu': gnuTar('--format=oldgnu'),
  'GNU tar, gnu': gnuTar('--format=gnu'),
  'GNU tar, ustar': gnuTar('--format=ustar'),
  'GNU tar, posix': gnuTar('--format=posix'),
  'GNU tar, with attributes': gnuTar('--format=posix', '--xattrs', '--xattrs-include=*', '--acls'),
  'GNU tar, sparse 0.0': gnuTar('--format=posix', '--sparse', '--sparse-version=0.0'),
  'GNU tar, sparse 0.1': gnuTar('--format=posix', '--sparse', '--sparse-version=0.1'),
  'GNU tar, sparse 1.0': gnuTar('--format=posix', '--sparse', '--sparse-version=1.0'),
  'GNU tar, a list of names': [
    ...['tar', '--format=gnu', '--atime-preserve', '--no-recursion', '-cf', '{}', '--null', '-T', 'names'],
  ],
  'bsdtar, as it is': ['bsdtar', '-cf', '{}', '.'],
  'bsdtar, v7': ['bsdtar', '--format=v7', '-cf', '{}', '.'],
  'bsdtar, ustar': ['bsdtar', '--format=ustar', '-cf', '{}', '.'],
  'bsdtar, gnutar': ['bsdtar', '--format=gnutar', '-cf', '{}', '.'],
  'bsdtar, pax': ['bsdtar', '--format=pax', '-cf', '{}', '.'],
  'bsdtar, with attributes': bsdTar('ALL'),
  'bsdtar, with attributes in SCHILY records alone': bsdTar('SCHILY'),
  'busybox tar': ['busybox', 'tar', '-cf', '{}', '.'],
  'GNU cpio, ustar': cpio('ustar'),
  'GNU cpio, v7': cpio('tar'),
  'Python tarfile, USTAR_FORMAT': pythonTar('USTAR_FORMAT'),
  'Python tarfile, GNU_FORMAT': pythonTar('GNU_FORMAT'),
  'Python tarfile, PAX_FORMAT': pythonTar('PAX_FORMAT'),
  'node-tar': nodeTar('portable: false'),
  'node-tar, portable': nodeTar('portable: true'),
};

/** Archives that containerd applies differently, and equivalent archives that it applies correctly (README.md). */
const OTHERWISE: Readonly<Record<string, { readonly command: Command; readonly equivalent: Command }>> = {
  'GNU tar, old sparse files: containerd refuses type S': {
    command: gnuTar('--format=gnu', '--sparse'),
    equivalent: gnuTar('--format=gnu'),
  },
  'GNU tar, a global header: containerd makes a folder of it': {
    command: gnuTar('--format=posix', '--pax-option=comment=global'),
    equivalent: gnuTar('--format=posix'),
  },
  'bsdtar, attributes in LIBARCHIVE records alone: containerd leaves them out': {
    command: bsdTar('LIBARCHIVE'),
    equivalent: bsdTar('SCHILY'),
  },
};

function gnuTar(...options: string[]): Command {
  return ['tar', ...options, '-cf', '{}', '.'];
}

function bsdTar(xattrHeader: string): Command {
  const options = `pax:xattrheader=${xattrHeader}`;
  return ['bsdtar', '--format=pax', '--xattrs', '--acls', '--options', options, '-cf', '{}', '.'];
}

/** cpio reads names from its input, and skips files that the format can't hold. */
function cpio(format: string): Command {
  return ['sh', '-c', `find . -print0 | LC_ALL=C sort -z | cpio --quiet --create --null --format=${format} > '{}'`];
}

function pythonTar(format: string): Command {
  const program = `import tarfile; archive = tarfile.open('{}', 'w', format=tarfile.${format}); archive.add('.'); archive.close()`;
  return ['python3', '-c', program];
}

function nodeTar(option: string): Command {
  const program = `import { create } from 'tar'; create({ sync: true, file: '{}', ${option} }, ['.'])`;
  return [process.execPath, '--input-type=module', '-e', program];
}

/** Fills a folder with files that the format `name` can hold. @returns the archive that the program writes of it */
function written(name: string, command: Command): Buffer {
  using dir = scratch();
  const folder = join(dir.path, 'folder');
  fillFolder(folder, name);
  const archive = join(dir.path, 'archive.tar');
  const [program = '', ...rest] = command.map((word) => word.replaceAll('{}', archive));
  // Node resolves node-tar from this directory
  const done = spawnSync(program, program === process.execPath ? withFolder(rest, folder) : rest, {
    cwd: program === process.execPath ? import.meta.dirname : folder,
    env: { ...process.env, LC_ALL: 'C.UTF-8' },
    encoding: 'utf8',
  });
  assert.equal(done.status, 0, done.stderr);
  return readFileSync(archive);
}

/** The reason to skip a test: a program of the writer, or one that fills the folder, is missing. */
function missing([program = '']: Command): string | false {
  const own = program === 'sh' ? ['cpio'] : program === process.execPath ? [] : [program];
  return skipWithout(...own, 'setfattr', 'setfacl', 'mkfifo', 'mknod');
}

describe('archives of other programs leave the same folders', () => {
  for (const [name, command] of Object.entries(WRITERS)) {
    it(name, { skip: running.skip || missing(command) }, async () => {
      if (running.skip !== false) return;
      await agree(running.suite, layersOf([written(name, command)]));
    });
  }
});

describe('archives that containerd applies differently are applied correctly', () => {
  for (const [name, { command, equivalent }] of Object.entries(OTHERWISE)) {
    it(name, { skip: running.skip || missing(command) }, async () => {
      if (running.skip !== false) return;
      const [layers, right] = [layersOf([written(name, command)]), layersOf([written(name, equivalent)])];
      for (const type of STORE_TYPES) {
        assert.notDeepEqual(await compareImage(running.suite, layers, type), [], `${type}: a difference is gone`);
        assert.deepEqual(await compareImage(running.suite, layers, type, right), []);
      }
    });
  }
});

it('incremental archives of GNU tar are refused by both', { skip: running.skip }, async () => {
  if (running.skip !== false) return;
  const command = ['tar', '--format=gnu', '--incremental', '-cf', '{}', '.'];
  const layers = layersOf([written('incremental', command)]);
  for (const type of STORE_TYPES) {
    assert.equal((await running.suite.containerd.apply(layers, STORES[type])).kind, 'refused');
    assert.equal((await running.suite.unpackd.apply(layers, type)).kind, 'refused');
  }
});

/** DiffIDs as their writers give them: ../archive/blobs/README.md. */
const BLOBS = {
  'estargz.tar.gz': 'sha256:6d7de8929222c40b6eb978a4ae98c301fd9d4418b7d711f7e55e8a6fd96a47f0',
  'zstd-chunked.tar.zst': 'sha256:54ad29b065c1e9e9ff3201d6fe1ef8cb67f595ff165c0ab1ded6f1b6320baebb',
};

describe('blobs for lazy pulling leave the same folders', () => {
  for (const [name, diffId] of Object.entries(BLOBS)) {
    it(name, { skip: running.skip }, async () => {
      if (running.skip !== false) return;
      const bytes = readFileSync(join(import.meta.dirname, '../archive/blobs', name));
      const mediaType = `application/vnd.oci.image.layer.v1.tar+${name.endsWith('gz') ? 'gzip' : 'zstd'}`;
      const blob = { mediaType, digest: digestOf(bytes), size: bytes.length };
      await agree(running.suite, [{ diff: { digest: diffId as DiffId }, blob, bytes }]); // of a literal
    });
  }
});

const withFolder = (words: readonly string[], folder: string): string[] =>
  words.map((word) => word.replace('sync: true', `sync: true, cwd: ${JSON.stringify(folder)}`));

/** Files that the formats store differently: long names, long links, large numbers, holes, fractions of seconds, attributes. */
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
  // before the start of the suite, so that the time is compared: see `Comparison.since`
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort().reverse()) {
    lutimesSync(at(name), 1_500_000_000.25, 1_600_000_000.123456);
  }
  const names = ['.', ...readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort()];
  if (writer.includes('names')) writeFileSync(at('names'), `${names.join('\0')}\0`);
  utimesSync(folder, 1_500_000_000, 1_600_000_000);
}

/** Alternating data and holes, more than the sparse map of one header holds, with a hole at the end. */
function sparseFile(path: string): void {
  const fd = openSync(path, 'w');
  writeSync(fd, Buffer.alloc(5000, 'd'), 0, 5000, 0);
  for (let i = 1; i <= 30; i++) writeSync(fd, Buffer.alloc(4096, 's'), 0, 4096, i << 16);
  ftruncateSync(fd, 32 << 16);
  closeSync(fd);
}

function spawn(program: string, ...words: string[]): void {
  const done = spawnSync(program, words, { encoding: 'utf8' });
  assert.equal(done.status, 0, done.stderr);
}
