import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { applyTar, folder } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, hardlink, type Member, symlink, tar, whiteout } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

/** The paths that a layer leaves in an empty directory. They must be the same with openat2 and without it. */
function paths(...members: Member[]): string[] {
  const found = [true, false].map((useOpenat2) => {
    using dir = scratch();
    const root = folder(dir.path, 'root');
    applyTar(tar(...members), { root }, { useOpenat2 });
    return Object.keys(readTree(root));
  });
  assert.deepEqual(found[0], found[1]);
  return found[0] ?? [];
}

describe('`..` in the target of a symbolic link', () => {
  const real = directory('real');
  it('removes a missing name before it, which is then not made', () => {
    for (const target of [
      'missing/../real',
      '/missing/../real',
      'a/b/../../real',
      'a/../b/../real',
      './a/.././real/.',
    ]) {
      assert.deepEqual(paths(real, symlink('l', target), file('l/f')), ['l', 'real', 'real/f'], target);
    }
  });

  it('removes a file before it', () => {
    for (const target of ['file/../real', '/file/../real', 'real/x/../../file/../real']) {
      assert.deepEqual(
        paths(real, file('file'), symlink('l', target), file('l/f')),
        ['file', 'l', 'real', 'real/f'],
        target,
      );
    }
  });

  it('leads to the directory of the link, and never above the root', () => {
    assert.deepEqual(paths(directory('d'), symlink('d/l', 'missing/..'), file('d/l/f')), ['d', 'd/f', 'd/l']);
    assert.deepEqual(paths(directory('d'), symlink('d/l', 'missing/../../../../x'), file('d/l/f')), [
      'd',
      'd/l',
      'x',
      'x/f',
    ]);
  });

  it('makes only the directories of the resolved path', () => {
    assert.deepEqual(paths(symlink('l', 'a/b/../new/er'), file('l/f')), ['a', 'a/new', 'a/new/er', 'a/new/er/f', 'l']);
  });

  it('does not make a path through a file valid', () => {
    for (const target of ['file/x/../../real', 'file/x']) {
      assert.throws(() => paths(real, file('file'), symlink('l', target), file('l/f')), /ENOTDIR/);
    }
  });

  it('means the same for hard links, whiteouts and times', () => {
    const link = symlink('l', 'missing/../real');
    assert.deepEqual(paths(real, file('real/f'), link, hardlink('h', 'l/f')), ['h', 'l', 'real', 'real/f']);
    assert.deepEqual(paths(real, file('real/f'), hardlink('h', 'missing/../real/f')), ['h', 'real', 'real/f']);
    assert.deepEqual(paths(real, link, directory('l/d', { mtime: 5 }), whiteout('l/x')), ['l', 'real', 'real/d']);
  });
});
