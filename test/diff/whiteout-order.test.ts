import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { applyTar, folder } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, type Member, symlink, tar, whiteout } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

const below = tar(
  directory('d', { mode: 0o700, uid: 5, pax: [['SCHILY.xattr.user.below', 'old']] }),
  directory('d/e', { mode: 0o711, uid: 6 }),
);

/** The tree of a layer on `below`, without times. */
function overlayTree(...members: Member[]): Record<string, object> {
  using dir = scratch();
  const lower = folder(dir.path, 'lower');
  applyTar(below, { root: lower });
  const root = folder(dir.path, 'root');
  applyTar(tar(...members), { root, lowers: [lower], whiteouts: 'overlay' });
  return Object.fromEntries(Object.entries(readTree(root)).map(([path, { mtime, ...node }]) => [path, node]));
}

describe('a directory that a layer deletes and makes by need', () => {
  it('takes nothing from the one that it deletes, in whichever order the two come', () => {
    const made = file('d/e/f', 'new');
    const expected = {
      d: { type: 'directory', mode: '0755', owner: '0:0', xattrs: { 'trusted.overlay.opaque': 'y' } },
      'd/e': { type: 'directory', mode: '0755', owner: '0:0' },
      'd/e/f': { type: 'file', mode: '0644', owner: '0:0', content: 'new', size: 3 },
    };
    assert.deepEqual(overlayTree(whiteout('d'), made), expected);
    assert.deepEqual(overlayTree(made, whiteout('d')), expected);
  });

  it('is found where links lead', () => {
    const tree = overlayTree(symlink('l', '.'), file('d/e/f'), whiteout('l/d'));
    assert.deepEqual(tree['d/e'], { type: 'directory', mode: '0755', owner: '0:0' });
  });

  it('still takes its attributes from below where another name is deleted', () => {
    const tree = overlayTree(whiteout('d/e/g'), whiteout('d/eel'), file('d/e/f'));
    assert.deepEqual(tree['d/e'], { type: 'directory', mode: '0711', owner: '6:0' });
  });
});
