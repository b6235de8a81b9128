import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { runChild } from '../support/child.ts';
import '../support/needs-root.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { skipWithout } from '../support/present.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, hardlink, type Member, symlink, tar } from '../support/tar.ts';

/**
 * The system calls of one entry, counted with strace on archives of two sizes; the difference excludes the start of the
 * process. Measured time would depend on the load of the machine.
 */
const skip = skipWithout('strace') || (runChild('strace', ['-c', 'true']).status !== 0 && 'strace may not trace here');
const FEW = 200;
const MANY = 1200;
/** Calls that a thread makes for many entries together: pieces of the blob, messages, memory. */
const SLACK = 0.3;

/**
 * Calls that concern files. Calls to wait, to allocate memory and to wake threads vary at random and are not counted. The
 * plain read and write are among the latter, because files are read and written at positions.
 */
const FILE_CALLS =
  /^(open|openat|openat2|close|pread64|pwrite64|pwritev2?|ftruncate|fallocate|lseek|stat|lstat|fstat|newfstatat|statx|access|faccessat2?|mkdir|mkdirat|rmdir|unlink|unlinkat|rename|renameat2?|link|linkat|symlink|symlinkat|readlink|readlinkat|mknod|mknodat|chmod|fchmod|fchmodat2?|chown|lchown|fchown|fchownat|utimensat|futimesat|getdents64|[fl]?(set|get|list|remove)xattr)$/;

async function callsFor(place: string, name: string, members: readonly Member[]): Promise<number> {
  const layout = join(place, name);
  await writeLayout(layout, { app: imageOf([layerOf(tar(...members))]) });
  const counts = join(place, `${name}.txt`);
  const cli = join(import.meta.dirname, '../../src/cli/main.ts');
  const apply = [cli, 'apply', `${layout}:app`, '--root', join(place, `${name}-store`), '--durable', 'false'];
  const strace = ['-f', '-qq', '-c', '-U', 'calls,name', '-o', counts, process.execPath, ...apply];
  const { status, stderr } = runChild('strace', strace);
  assert.equal(status, 0, stderr);
  let sum = 0;
  for (const line of readFileSync(counts, 'utf8').split('\n')) {
    const [, calls, call = ''] = /^\s*(\d+) (\w+)$/.exec(line) ?? [];
    if (FILE_CALLS.test(call)) sum += Number(calls);
  }
  return sum;
}

/** The system calls of one more entry. */
async function callsAnEntry(member: (index: number) => Member, first: readonly Member[] = []): Promise<number> {
  using place = scratch();
  const members = (count: number) => [...first, ...Array.from({ length: count }, (_, index) => member(index))];
  const few = await callsFor(place.path, 'few', members(FEW));
  const many = await callsFor(place.path, 'many', members(MANY));
  return (many - few) / (MANY - FEW);
}

const KINDS: readonly [string, number, (index: number) => Member, string][] = [
  ['a small file', 4, (index) => file(`srv/file-${index}`, 'some text'), 'open, write, times, close'],
  ['an empty file', 3, (index) => file(`srv/file-${index}`), 'open, times, close'],
  [
    'a file of another owner that its group may write',
    5,
    (index) => file(`srv/file-${index}`, '', { uid: 1000, gid: 1000, mode: 0o664 }),
    'open, owner, mode, times, close',
  ],
  ['a symbolic link', 2, (index) => symlink(`srv/link-${index}`, 'target'), 'symlink, times'],
  ['a directory', 3, (index) => directory(`srv/directory-${index}`), 'make, look, times'],
  // containerd too gives the file that is linked the owner, mode and times of the link's entry
  [
    'a hard link',
    7,
    (index) => hardlink(`srv/link-${index}`, 'srv/first'),
    'link, look, owner, mode by a handle, times',
  ],
];

for (const [what, most, member, calls] of KINDS) {
  test(`${what} takes ${most} system calls: ${calls}`, { skip }, async () => {
    const count = await callsAnEntry(member, [directory('srv'), file('srv/first', 'x')]);
    assert.ok(count <= most + SLACK, `${count} calls`);
  });
}
