import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { applyTar, folder } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { device, directory, file, type Member, symlink, tar, whiteout } from '../support/tar.ts';
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

describe('a directory that an entry names and the layer deletes', () => {
  const opaque = { type: 'directory', mode: '0711', owner: '0:0', xattrs: { 'trusted.overlay.opaque': 'y' } };
  const named = directory('d', { mode: 0o711 });

  it('is opaque, whatever the layer has made of that name in between', () => {
    assert.deepEqual(overlayTree(whiteout('d'), file('d'), named), { d: opaque });
    assert.deepEqual(overlayTree(whiteout('d'), named, file('d'), named), { d: opaque });
    assert.deepEqual(overlayTree(file('d'), whiteout('d'), named), { d: opaque });
  });

  it('is opaque where links lead to it', () => {
    assert.deepEqual(overlayTree(symlink('l', '.'), whiteout('d'), directory('l/d', { mode: 0o711 })).d, opaque);
  });

  it('is not opaque where the archive has a device 0:0 of that name, which is no deletion', () => {
    const { xattrs: _, ...plain } = opaque;
    assert.deepEqual(overlayTree(device('d', 'c', 0, 0), named), { d: plain });
  });
});

it('a device 0:0 of the archive is no directory', () => {
  assert.throws(() => overlayTree(device('x', 'c', 0, 0), file('x/y')), /a file is in the way of a directory/);
});
