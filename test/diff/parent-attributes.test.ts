import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { applyTar, folder } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, tar, whiteout } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

const xattr = (name: string, value: string | Buffer) => [`SCHILY.xattr.${name}`, value] as const;
/** u::rwx, u:1000:rwx, g::r-x, m::rwx, o::r-x */
const ACL = Buffer.from(
  '0200000001000700ffffffff02000700e803000004000500ffffffff10000700ffffffff20000500ffffffff',
  'hex',
);

describe('an implied directory that a later entry names', () => {
  it('gets extended attributes of the layer below that its entry does not have', () => {
    using dir = scratch();
    const lower = folder(dir.path, 'lower');
    const below = [xattr('user.both', 'below'), xattr('user.below', 'kept'), xattr('system.posix_acl_access', ACL)];
    applyTar(tar(directory('d', { uid: 5, mode: 0o777, pax: below })), { root: lower });
    const root = folder(dir.path, 'root');
    const named = directory('d', { uid: 6, mode: 0o750, mtime: 7, pax: [xattr('user.both', 'entry')] });
    applyTar(tar(file('d/f'), named), { root, lowers: [lower], below: 'parent' });
    const { d } = readTree(root);
    assert.equal(d?.owner, '6:0');
    assert.equal(d?.mode, '0750');
    assert.equal(d?.mtime, 7_000_000_000n);
    assert.equal(d?.xattrs?.['user.both'], 'entry');
    assert.equal(d?.xattrs?.['user.below'], 'kept');
    assert.ok(d?.xattrs?.['system.posix_acl_access']);
  });

  it('gets none from the layer below if its entry comes first', () => {
    using dir = scratch();
    const lower = folder(dir.path, 'lower');
    applyTar(tar(directory('d', { pax: [xattr('user.below', 'gone')] })), { root: lower });
    const root = folder(dir.path, 'root');
    applyTar(tar(directory('d'), file('d/f')), { root, lowers: [lower], below: 'parent' });
    assert.equal(readTree(root).d?.xattrs, undefined);
  });
});

describe('an implied directory that no layer below has', () => {
  const lowerOf = (path: string): string => {
    const lower = folder(path, 'lower');
    applyTar(tar(directory('d', { mode: 0o2775, gid: 50 })), { root: lower });
    return lower;
  };

  it('inherits the group of its set-group-ID parent directory, if that is implied too', () => {
    using dir = scratch();
    const lower = lowerOf(dir.path);
    for (const [name, members] of Object.entries({
      unnamed: [file('d/e/f/g')],
      'named later': [file('d/e/f/g'), directory('d', { gid: 7 })],
    })) {
      const root = folder(dir.path, name);
      applyTar(tar(...members), { root, lowers: [lower], below: 'parent' });
      const tree = readTree(root);
      assert.deepEqual([tree['d/e']?.owner, tree['d/e']?.mode], ['0:50', '0755'], name);
      assert.equal(tree['d/e/f']?.owner, '0:0', name);
    }
  });

  it('inherits the group too if the layer deletes the directory of the layers below, in any order', () => {
    using dir = scratch();
    const lower = lowerOf(dir.path);
    applyTar(tar(directory('d/e', { mode: 0o700, uid: 9 }), directory('d', { mode: 0o2775, gid: 50 })), {
      root: lower,
    });
    for (const [name, members] of Object.entries({
      before: [whiteout('d/e'), file('d/e/f/g')],
      after: [file('d/e/f/g'), whiteout('d/e')],
    })) {
      const root = folder(dir.path, name);
      applyTar(tar(...members), { root, lowers: [lower], below: 'parent' });
      const tree = readTree(root);
      assert.deepEqual([tree['d/e']?.owner, tree['d/e']?.mode, tree['d/e/f']?.owner], ['0:50', '0755', '0:0'], name);
    }
  });

  it('inherits nothing from the layer below if an earlier entry has named its parent directory', () => {
    using dir = scratch();
    const root = folder(dir.path, 'root');
    const members = [file('d/x'), directory('d', { gid: 7 }), file('d/e/f')];
    applyTar(tar(...members), { root, lowers: [lowerOf(dir.path)], below: 'parent' });
    assert.equal(readTree(root)['d/e']?.owner, '0:0');
  });
});
