import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { WhiteoutDirectories } from '../../src/diff/whiteout-directories.ts';
import { applyTar, folder } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, type Member, opaque, symlink, tar, whiteout } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

const below = tar(
  directory('usr'),
  directory('usr/etc'),
  file('usr/etc/f'),
  file('usr/etc/g'),
  directory('usr/etc/sub'),
  file('usr/etc/sub/h'),
);

/** The result of a layer on `below` in each kind of store; for an overlay, the content of its upper directory. */
function trees(members: readonly Member[]): Record<'overlay' | 'copy' | 'bottom', string[]> {
  using dir = scratch();
  const archive = tar(...members);
  const overlay = folder(dir.path, 'overlay');
  const lower = folder(dir.path, 'lower');
  applyTar(below, { root: lower });
  applyTar(archive, { root: overlay, lowers: [lower], below: 'parent' });
  let copy = folder(dir.path, 'copy');
  applyTar(below, { root: copy });
  const { again: findings } = applyTar(archive, { root: copy, below: 'parent' });
  if (findings !== undefined) {
    copy = folder(dir.path, 'second copy');
    applyTar(below, { root: copy });
    assert.equal(applyTar(archive, { root: copy, below: 'parent' }, { findings }).again, undefined);
  }
  const bottom = folder(dir.path, 'bottom');
  applyTar(archive, { root: bottom });
  return { overlay: look(overlay), copy: look(copy), bottom: look(bottom) };
}

/** Sorted paths. A whiteout begins with a minus, an opaque directory ends with a plus. */
function look(root: string): string[] {
  return Object.entries(readTree(root)).map(([path, node]) =>
    node.type === 'character' ? `-${path}` : node.xattrs?.['trusted.overlay.opaque'] === 'y' ? `${path}+` : path,
  );
}

/** All orders of a few entries. */
function orders(members: readonly Member[]): Member[][] {
  if (members.length < 2) return [[...members]];
  return members.flatMap((member, index) =>
    orders([...members.slice(0, index), ...members.slice(index + 1)]).map((rest) => [member, ...rest]),
  );
}

const untouched = ['usr', 'usr/etc', 'usr/etc/f', 'usr/etc/g', 'usr/etc/sub', 'usr/etc/sub/h'];

describe('a directory that holds only whiteouts', () => {
  it('is removed if the layer deletes it, in any order', () => {
    for (const members of orders([whiteout('usr/etc/g'), whiteout('usr/etc')])) {
      assert.deepEqual(trees(members), { overlay: ['usr', '-usr/etc'], copy: ['usr'], bottom: ['usr'] });
    }
  });

  it('is not made if the layer has a file in its place, and deletes what the layers below have there', () => {
    const [etc, deletion, inside] = [file('usr/etc'), whiteout('usr/etc'), whiteout('usr/etc/sub/x')];
    for (const members of [
      [etc, deletion, inside],
      [deletion, etc, inside],
      [deletion, inside, etc],
      [inside, etc, deletion],
      [inside, deletion, etc],
    ]) {
      const tree = ['usr', 'usr/etc'];
      assert.deepEqual(trees(members), { overlay: tree, copy: tree, bottom: tree });
    }
  });

  it('is removed with its content: opaque markers and directories for other whiteouts', () => {
    for (const members of orders([
      whiteout('usr/etc/sub/deep/x'),
      opaque('usr/etc/sub'),
      whiteout('usr/etc/g'),
      whiteout('usr/etc'),
    ])) {
      assert.deepEqual(trees(members), { overlay: ['usr', '-usr/etc'], copy: ['usr'], bottom: ['usr'] });
    }
  });

  it('is removed if a directory above it is deleted, or both are', () => {
    for (const members of orders([whiteout('usr/etc/sub/x'), whiteout('usr/etc'), whiteout('usr')])) {
      assert.deepEqual(trees(members), { overlay: ['-usr'], copy: [], bottom: [] });
    }
  });

  it('is removed if symbolic links lead to it', () => {
    for (const members of orders([whiteout('l/etc/g'), whiteout('usr/etc')])) {
      const { overlay, bottom } = trees([directory('usr'), symlink('l', 'usr'), ...members]);
      assert.deepEqual(overlay, ['l', 'usr', '-usr/etc']);
      assert.deepEqual(bottom, ['l', 'usr']);
    }
  });

  it('stays if the layer does not delete it', () => {
    for (const members of orders([whiteout('usr/etc/g'), whiteout('usr/other')])) {
      const { overlay, copy, bottom } = trees(members);
      assert.deepEqual(overlay, ['usr', 'usr/etc', '-usr/etc/g', '-usr/other']);
      assert.deepEqual(
        copy,
        untouched.filter((path) => path !== 'usr/etc/g'),
      );
      assert.deepEqual(bottom, ['usr', 'usr/etc']);
    }
  });

  it('stays in an opaque directory, as in containerd', () => {
    for (const members of orders([whiteout('usr/etc/sub/x'), opaque('usr/etc')])) {
      const { overlay, copy } = trees(members);
      assert.deepEqual(overlay, ['usr', 'usr/etc+', 'usr/etc/sub', '-usr/etc/sub/x']);
      assert.deepEqual(copy, ['usr', 'usr/etc', 'usr/etc/sub']);
    }
  });
});

describe('a directory that a layer deletes and writes into', () => {
  it('is made as a new one, without the directories for whiteouts in it', () => {
    for (const [index, members] of orders([
      whiteout('usr/etc/sub/x'),
      whiteout('usr/etc'),
      file('usr/etc/new'),
      whiteout('usr/etc/g'),
    ]).entries()) {
      const { overlay, copy, bottom } = trees(members);
      const visible = ['usr', 'usr/etc', 'usr/etc/new'];
      // a whiteout in an opaque directory hides nothing
      assert.deepEqual(
        overlay.filter((path) => path !== '-usr/etc/g'),
        ['usr', 'usr/etc+', 'usr/etc/new'],
        `order ${index}`,
      );
      assert.deepEqual(copy, visible, `order ${index}`);
      assert.deepEqual(bottom, visible, `order ${index}`);
    }
  });

  it('is made as a new one if its own entry makes it', () => {
    for (const members of orders([whiteout('usr/etc/g'), whiteout('usr/etc'), directory('usr/etc')])) {
      const { overlay, copy, bottom } = trees(members);
      assert.deepEqual(
        overlay.filter((path) => path !== '-usr/etc/g'),
        ['usr', 'usr/etc+'],
      );
      assert.deepEqual(copy, ['usr', 'usr/etc']);
      assert.deepEqual(bottom, ['usr', 'usr/etc']);
    }
  });

  it('is replaced by a file of the layer with its name', () => {
    for (const members of [
      [whiteout('usr/etc/g'), whiteout('usr/etc'), file('usr/etc')],
      [whiteout('usr/etc/g'), file('usr/etc'), whiteout('usr/etc')],
      [whiteout('usr/etc'), whiteout('usr/etc/g'), file('usr/etc')],
    ]) {
      assert.deepEqual(trees(members), {
        overlay: ['usr', 'usr/etc'],
        copy: ['usr', 'usr/etc'],
        bottom: ['usr', 'usr/etc'],
      });
    }
  });
});

describe('WhiteoutDirectories', () => {
  it('counts its directories through all changes', () => {
    const directories = new WhiteoutDirectories();
    for (const path of ['a', 'a/b', 'a/b/c', 'd', 'd/e', 'd/f']) directories.add(path);
    assert.equal(directories.count, 6);
    directories.keep('a/b/file');
    assert.equal(directories.count, 4);
    assert.deepEqual(directories.take('a'), ['a/b/c']);
    assert.deepEqual(directories.take('a'), []);
    directories.remove('d/e');
    assert.equal(directories.count, 2);
    assert.deepEqual(directories.take('d'), ['d']);
    assert.equal(directories.count, 0);
    assert.deepEqual(directories.take('nothing/there'), []);
  });

  it('takes the deepest path that is possible', () => {
    const directories = new WhiteoutDirectories();
    const names = Array.from({ length: 2047 }, () => 'd');
    for (let depth = 1; depth <= names.length; depth++) directories.add(names.slice(0, depth).join('/'));
    assert.deepEqual(directories.take('d'), ['d']);
    assert.equal(directories.count, 0);
  });
});
