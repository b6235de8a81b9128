import assert from 'node:assert/strict';
import { chownSync } from 'node:fs';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { InitialAttributes } from '../../src/diff/initial-attributes.ts';
import { KernelTree } from '../../src/diff/kernel-tree.ts';
import { Root } from '../../src/diff/root.ts';
import { applyTar } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, type Member, paxHeader, symlink, tar } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

/** A default ACL (struct posix_acl_xattr) without rights for others: a new file with mode 0644 gets 0640. */
const DEFAULT_ACL = Buffer.alloc(4 + 3 * 8);
DEFAULT_ACL.writeUInt32LE(2, 0);
for (const [index, [tag, rights]] of [
  [0x01, 7],
  [0x04, 7],
  [0x20, 0],
].entries()) {
  DEFAULT_ACL.writeUInt16LE(tag ?? 0, 4 + 8 * index);
  DEFAULT_ACL.writeUInt16LE(rights ?? 0, 6 + 8 * index);
  DEFAULT_ACL.writeUInt32LE(0xffffffff, 8 + 8 * index);
}

const acl = paxHeader([['SCHILY.xattr.system.posix_acl_default', DEFAULT_ACL]]);

/** Owners and modes of the files of an archive, by path. */
function owned(...members: readonly (Member | Buffer)[]): Record<string, string> {
  using dir = scratch();
  applyTar(tar(...members), { root: dir.path });
  return Object.fromEntries(
    Object.entries(readTree(dir.path)).map(([path, { owner, mode }]) => [path, `${owner} ${mode}`]),
  );
}

const contents = (of: string): Member[] => [
  file(`${of}/f`, 'text', { mode: 0o644 }),
  file(`${of}/other`, 'text', { mode: 0o644, uid: 1, gid: 2 }),
  directory(`${of}/d`, { mode: 0o755 }),
  symlink(`${of}/s`, 'f'),
];

const AS_NAMED = { f: '0:0 0644', other: '1:2 0644', d: '0:0 0755', s: '0:0 0777' };
const below = (of: string): Record<string, string> =>
  Object.fromEntries(Object.entries(AS_NAMED).map(([name, what]) => [`${of}/${name}`, what]));

describe('a new file has the owner and mode of its entry, not those that the kernel gives it', () => {
  for (const [what, before, mode, attributes] of [
    ['in a plain directory', { mode: 0o755 }, '0:0 0755', undefined],
    ['in a directory of another group', { mode: 0o755, gid: 50 }, '0:50 0755', undefined],
    ['in a setgid directory', { mode: 0o2755 }, '0:0 2755', undefined],
    ['in a setgid directory of another group', { mode: 0o2755, gid: 50 }, '0:50 2755', undefined],
    ['in a directory with a default ACL', { mode: 0o755 }, '0:0 0755', acl],
  ] as const) {
    const named = attributes === undefined ? [] : [attributes];
    it(what, () => {
      assert.deepEqual(owned(...named, directory('x', before), ...contents('x')), { x: mode, ...below('x') });
    });

    it(`${what}, made so by a later entry`, () => {
      const members = [directory('x'), file('x/first', ''), ...named, directory('x', before), ...contents('x')];
      assert.deepEqual(owned(...members), { x: mode, 'x/first': '0:0 0644', ...below('x') });
    });
  }

  it('with a umask, and with mode bits that only chmod sets', () => {
    const modes = [0o666, 0o777, 0o4755, 0o2644, 0o1644, 0o000];
    const tree = owned(
      ...modes.flatMap((mode) => [
        file(`f${mode.toString(8)}`, '', { mode }),
        directory(`d${mode.toString(8)}`, { mode }),
      ]),
    );
    for (const mode of modes) {
      const shown = mode.toString(8);
      assert.equal(Number.parseInt((tree[`f${shown}`] ?? '').slice(4), 8), mode, `a file of mode ${shown}`);
      assert.equal(Number.parseInt((tree[`d${shown}`] ?? '').slice(4), 8), mode, `a directory of mode ${shown}`);
    }
  });
});

describe('the owner of a new file', () => {
  const owner = (root: string): boolean => {
    using open = new Root(new KernelTree(root));
    const of = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, mode: 0o644 };
    return new InitialAttributes(open).has(open.tree.root, { type: 'file', ...of, xattrs: undefined }).owner;
  };

  it('is set by chown, unless this user owns the files that it creates', () => {
    using dir = scratch();
    assert.equal(owner(dir.path), true);
    // like a file system that gives all files to one user
    chownSync(dir.path, 65_534, process.getgid?.() ?? 0);
    assert.equal(owner(dir.path), false);
  });
});
