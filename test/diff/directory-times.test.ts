import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { applyTar, folder } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, opaque, symlink, tar, whiteout } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

const SECOND = 1_000_000_000n;

/** Modification times in seconds, by path. */
function timesOf(archive: Buffer, useOpenat2 = true): Record<string, bigint> {
  using dir = scratch();
  applyTar(archive, { root: dir.path }, { useOpenat2 });
  return Object.fromEntries(Object.entries(readTree(dir.path)).map(([path, { mtime }]) => [path, mtime / SECOND]));
}

describe('the times of a directory, set after the last entry', () => {
  it('go to the file that a later entry has put in its place, as in containerd', () => {
    const times = timesOf(tar(directory('a', { mtime: 50 }), file('a', 'a file now', { mtime: 60 })));
    assert.deepEqual(times, { a: 50n });
  });

  for (const useOpenat2 of [true, false]) {
    it(`go to the target of a symbolic link that a later entry has put in its place, ${useOpenat2 ? 'with' : 'without'} openat2`, () => {
      const archive = tar(
        directory('d', { mtime: 1 }),
        file('d/f', '', { mtime: 2 }),
        directory('up', { mtime: 3 }),
        symlink('up', '../../d/f', { mtime: 4 }),
        directory('rooted', { mtime: 5 }),
        symlink('rooted', '/second', { mtime: 6 }),
        symlink('second', 'd/../d/.', { mtime: 7 }),
      );
      assert.deepEqual(timesOf(archive, useOpenat2), { d: 5n, 'd/f': 3n, up: 4n, rooted: 6n, second: 7n });
    });
  }

  it('are set at once if its path leads through a symbolic link, and stay if the path leads elsewhere at the end', () => {
    const throughLink = [symlink('l', 'a'), directory('l/d', { mtime: 5 }), directory('l', { mtime: 6 })];
    const times = timesOf(tar(directory('a', { mtime: 7 }), ...throughLink, file('l/d/f', '', { mtime: 8 })));
    assert.deepEqual(times, { a: 7n, 'a/d': 5n, l: 6n, 'l/d': 5n, 'l/d/f': 8n });
  });

  it('change then if something is written in it afterwards, in a full copy too', () => {
    for (const below of ['nothing', 'parent'] as const) {
      for (const before of [[], [file('a/d/e')]]) {
        using dir = scratch();
        const root = folder(dir.path, 'root');
        applyTar(tar(directory('a/d', { mtime: 1 }), symlink('l', 'a')), { root });
        const named = [symlink('l', 'a'), directory('l/d', { mtime: 5 }), directory('l', { mtime: 6 })];
        applyTar(tar(...before, ...named, file('a/d/f')), { root, below });
        assert.ok((readTree(root)['a/d']?.mtime ?? 0n) > 1_700_000_000n * SECOND, below);
      }
    }
  });

  it('are not set if a broken link, or a link to itself, has taken its place', () => {
    const archive = tar(
      directory('a', { mtime: 1 }),
      symlink('a', 'nowhere', { mtime: 2 }),
      directory('b', { mtime: 3 }),
      symlink('b', 'b', { mtime: 4 }),
      directory('c', { mtime: 5 }),
      directory('c/d', { mtime: 6 }),
      file('c', '', { mtime: 7 }),
    );
    assert.deepEqual(timesOf(archive), { a: 2n, b: 4n, c: 5n });
  });

  it('also go to an implied directory that a link leads to, and are not replaced by those of the layer below', () => {
    using dir = scratch();
    const lower = folder(dir.path, 'lower');
    applyTar(tar(directory('b', { mtime: 1, uid: 5 })), { root: lower });
    const root = folder(dir.path, 'root');
    const archive = tar(directory('a', { mtime: 7 }), symlink('a', 'b'), file('a/x'));
    applyTar(archive, { root, lowers: [lower], below: 'parent' });
    const { b } = readTree(root);
    assert.equal(b?.mtime, 7n * SECOND);
    assert.equal(b?.owner, '5:0');
  });

  it('go to the target of a link in a full copy too; the target keeps its own times if no entry sets them', () => {
    using dir = scratch();
    const root = folder(dir.path, 'root');
    applyTar(tar(directory('old', { mtime: 1 })), { root });
    const links = [
      directory('a', { mtime: 7 }),
      symlink('a', 'new'),
      directory('b', { mtime: 8 }),
      symlink('b', 'old'),
    ];
    applyTar(tar(...links, file('new/x'), file('old/x')), { root, below: 'parent' });
    const tree = readTree(root);
    assert.deepEqual([tree.new?.mtime, tree.old?.mtime], [7n * SECOND, 8n * SECOND]);
  });

  it('do not go to another directory if the directory is from the layer below and a link has taken its place', () => {
    using dir = scratch();
    const root = folder(dir.path, 'root');
    applyTar(tar(directory('old', { mtime: 1 }), directory('other', { mtime: 2 })), { root });
    applyTar(tar(file('old/x'), symlink('old', 'other', { mtime: 3 })), { root, below: 'parent' });
    assert.equal(readTree(root).other?.mtime, 2n * SECOND);
  });
});

describe('the times of an implied directory', () => {
  it('stay those of the layer below in a full copy, whatever is written or deleted in it', () => {
    for (const member of [file('d/f'), file('d/new/f'), whiteout('d/old'), whiteout('d/e/old'), opaque('d')]) {
      using dir = scratch();
      const root = folder(dir.path, 'root');
      const below = [directory('d', { mtime: 1 }), directory('d/e', { mtime: 2 }), file('d/e/old'), file('d/old')];
      applyTar(tar(...below), { root });
      applyTar(tar(file('d/e/new'), member), { root, below: 'parent' });
      const tree = readTree(root);
      assert.deepEqual([tree.d?.mtime, tree['d/e']?.mtime], [SECOND, 2n * SECOND], member.name.toString());
    }
  });

  it('never go to a file that has taken its place, not even one with the same inode number', () => {
    using dir = scratch();
    const archive = tar(file('a/b/c'), file('a/b', 'x', { mtime: 3 }));
    applyTar(archive, { root: dir.path, below: 'parent' });
    assert.equal(readTree(dir.path)['a/b']?.mtime, 3n * SECOND);
  });
});

describe('an implied directory', () => {
  it('has mode 0755 with any umask', () => {
    using dir = scratch();
    const before = process.umask(0o077);
    try {
      applyTar(tar(file('a/b/c')), { root: dir.path });
    } finally {
      process.umask(before);
    }
    const tree = readTree(dir.path);
    assert.equal(tree.a?.mode, '0755');
    assert.equal(tree['a/b']?.mode, '0755');
  });

  it('has mode 0755 in a directory with a default ACL, which replaces the umask', () => {
    using dir = scratch();
    // u::rw-, u:1000:r--, g::r--, m::r--, o::r--
    const acl = '0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000400ffffffff';
    const pax = [['SCHILY.xattr.system.posix_acl_default', Buffer.from(acl, 'hex')]] as const;
    applyTar(tar(directory('a', { pax }), file('a/b/c')), { root: dir.path });
    assert.equal(readTree(dir.path)['a/b']?.mode, '0755');
  });
});
