import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import type { PassFindings } from '../../src/diff/second-pass.ts';
import { applyTar, folder } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { device, directory, file, type Member, opaque, symlink, tar, whiteout } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

const below = tar(
  directory('d', { mode: 0o700, uid: 5, pax: [['SCHILY.xattr.user.below', 'old']] }),
  directory('d/e', { mode: 0o711, uid: 6 }),
);

/** The tree of a layer in an overlay on `below`, without times. */
function overlayTree(...members: Member[]): Record<string, object> {
  using dir = scratch();
  const lower = folder(dir.path, 'lower');
  applyTar(below, { root: lower });
  const root = folder(dir.path, 'root');
  applyTar(tar(...members), { root, lowers: [lower], below: 'parent' });
  return Object.fromEntries(Object.entries(readTree(root)).map(([path, { mtime, ...node }]) => [path, node]));
}

/** The same in a full copy, with as many passes as the layer needs. @returns the number of passes too */
function copiedTree(...members: Member[]): { tree: Record<string, object>; times: number } {
  return copiedOnto(below, ...members);
}

function copiedOnto(lower: Buffer, ...members: Member[]): { tree: Record<string, object>; times: number } {
  using dir = scratch();
  let findings: PassFindings | undefined;
  for (let times = 1; ; times++) {
    const root = folder(dir.path, `root ${times}`);
    applyTar(lower, { root });
    const { again } = applyTar(tar(...members), { root, below: 'parent' }, { findings });
    if (again === undefined) {
      const tree = readTree(root);
      return {
        tree: Object.fromEntries(Object.entries(tree).map(([path, { mtime, ...node }]) => [path, node])),
        times,
      };
    }
    findings = again;
  }
}

describe('a directory of a full copy that a layer deletes after it has written into it', () => {
  const asNew = { type: 'directory', mode: '0755', owner: '0:0' };

  it('is made as a new one, and so are the directories in it', () => {
    const { tree, times } = copiedTree(file('d/e/f', 'new'), whiteout('d'));
    const f = { type: 'file', mode: '0644', owner: '0:0', content: 'new', size: 3 };
    assert.deepEqual(tree, { d: asNew, 'd/e': asNew, 'd/e/f': f });
    assert.equal(times, 2);
    assert.deepEqual(copiedTree(whiteout('d'), file('d/e/f', 'new')), { tree, times: 1 });
  });

  it('gets all its attributes from its own entry', () => {
    const entry = directory('d', { mode: 0o711, uid: 9, pax: [['SCHILY.xattr.user.own', 'x']] });
    const d = { type: 'directory', mode: '0711', owner: '9:0', xattrs: { 'user.own': 'x' } };
    assert.deepEqual(copiedTree(entry, whiteout('d')).tree, { d });
    assert.deepEqual(copiedTree(file('d/g'), entry, whiteout('d')).tree.d, d);
  });

  it('gets the current time, not that of the deleted one', () => {
    using dir = scratch();
    const root = folder(dir.path, 'root');
    applyTar(tar(directory('d', { mtime: 5 })), { root });
    const findings = { lateDeletions: ['d'] };
    applyTar(tar(file('d/f'), whiteout('d')), { root, below: 'parent' }, { findings });
    assert.ok((readTree(root).d?.mtime ?? 0n) > 1_600_000_000n * 1_000_000_000n);
  });

  it('is found in the second pass by its real path only', () => {
    const { tree } = copiedTree(symlink('l', '.'), file('d/e/f'), whiteout('l/d'));
    assert.deepEqual(tree['d/e'], asNew);
    using dir = scratch();
    const root = folder(dir.path, 'root');
    applyTar(tar(file('real/x'), symlink('link', 'real')), { root });
    applyTar(tar(), { root, below: 'parent' }, { findings: { lateDeletions: ['link/x', 'no/where', 'real/x/y'] } });
    assert.deepEqual(Object.keys(readTree(root)), ['link', 'real', 'real/x']);
  });

  it('needs no second pass if the layer has made it, or has deleted it before', () => {
    for (const members of [
      [file('new/f'), whiteout('new')],
      [directory('new'), whiteout('new')],
      [file('d'), directory('d'), file('d/f'), whiteout('d')],
      [whiteout('d'), file('d/e/f'), whiteout('d/e'), whiteout('d')],
      [whiteout('d'), whiteout('d/e')],
      [file('d/e/f'), whiteout('d/e/g')],
      [file('d/e/f'), opaque('d')],
    ]) {
      assert.equal(copiedTree(...members).times, 1);
    }
  });
});

describe('a symbolic link of a full copy that a layer deletes after it has written through it', () => {
  const linked = tar(
    directory('real'),
    file('real/old'),
    symlink('link', 'real'),
    symlink('real/inner', '/link'),
    directory('d'),
    symlink('d/link', '../real'),
    symlink('other', 'd'),
  );
  const onto = (...members: Member[]) => {
    const { tree, times } = copiedOnto(linked, ...members);
    return { names: Object.keys(tree), times, tree };
  };
  const untouched = ['d', 'd/link', 'link', 'other', 'real', 'real/inner', 'real/old'];
  const without = (...names: string[]) => untouched.filter((name) => !names.includes(name));

  it('is not followed, as if it were deleted first', () => {
    const { names, times, tree } = onto(file('link/new', 'x'), whiteout('link'));
    assert.deepEqual(names, [...untouched, 'link/new'].sort());
    assert.deepEqual(tree.link, { type: 'directory', mode: '0755', owner: '0:0' });
    assert.equal(times, 2);
    assert.deepEqual(onto(whiteout('link'), file('link/new', 'x')), { names, times: 1, tree });
  });

  it('is not followed either if its directory is deleted, or if another link led to it', () => {
    assert.deepEqual(onto(file('d/link/new'), whiteout('d')).names, [...untouched, 'd/link/new'].sort());
    assert.deepEqual(onto(file('d/link/new'), whiteout('other/link')).names, [...untouched, 'd/link/new'].sort());
    assert.deepEqual(
      onto(file('link/inner/new'), whiteout('link')).names,
      [...untouched, 'link/inner', 'link/inner/new'].sort(),
    );
  });

  it('makes whiteouts whose paths lead through it delete nothing', () => {
    const { names } = onto(whiteout('link/old'), whiteout('link/inner'), whiteout('link'));
    assert.deepEqual(names, without('link'));
    const both = onto(file('real/inner/new'), whiteout('link/inner'), whiteout('link'));
    assert.deepEqual(both.names, [...untouched, 'link/new'].sort());
  });

  it('needs no second pass if no entry was written through it', () => {
    for (const [gone, ...members] of [
      [['link'], file('real/new'), whiteout('link')],
      [['link'], whiteout('link'), file('d/link/new'), whiteout('link')],
      [['real/old'], file('link/new'), whiteout('real/old')],
      [['other'], file('link/new'), whiteout('other')],
      [['link', 'other'], symlink('l', 'real'), file('l/new'), whiteout('other'), whiteout('link'), whiteout('l')],
    ] as [string[], ...Member[]][]) {
      const { names, times } = onto(...members);
      assert.equal(times, 1);
      assert.deepEqual(
        names.filter((name) => !/new|^l$/.test(name)),
        without(...gone),
      );
    }
  });
});

describe('an implied directory that the layer deletes', () => {
  it('gets no attributes of the deleted one, in any order', () => {
    const made = file('d/e/f', 'new');
    const expected = {
      d: { type: 'directory', mode: '0755', owner: '0:0', xattrs: { 'trusted.overlay.opaque': 'y' } },
      'd/e': { type: 'directory', mode: '0755', owner: '0:0' },
      'd/e/f': { type: 'file', mode: '0644', owner: '0:0', content: 'new', size: 3 },
    };
    assert.deepEqual(overlayTree(whiteout('d'), made), expected);
    assert.deepEqual(overlayTree(made, whiteout('d')), expected);
  });

  it('is found if symbolic links lead to it', () => {
    const tree = overlayTree(symlink('l', '.'), file('d/e/f'), whiteout('l/d'));
    assert.deepEqual(tree['d/e'], { type: 'directory', mode: '0755', owner: '0:0' });
  });

  it('still gets its attributes from the layer below if another name is deleted', () => {
    const tree = overlayTree(whiteout('d/e/g'), whiteout('d/eel'), file('d/e/f'));
    assert.deepEqual(tree['d/e'], { type: 'directory', mode: '0711', owner: '6:0' });
  });
});

describe('a directory that an entry names and the layer deletes', () => {
  const opaque = { type: 'directory', mode: '0711', owner: '0:0', xattrs: { 'trusted.overlay.opaque': 'y' } };
  const named = directory('d', { mode: 0o711 });

  it('is opaque, whatever the layer has made at that name in between', () => {
    assert.deepEqual(overlayTree(whiteout('d'), file('d'), named), { d: opaque });
    assert.deepEqual(overlayTree(whiteout('d'), named, file('d'), named), { d: opaque });
    assert.deepEqual(overlayTree(file('d'), whiteout('d'), named), { d: opaque });
  });

  it('is opaque if symbolic links lead to it', () => {
    assert.deepEqual(overlayTree(symlink('l', '.'), whiteout('d'), directory('l/d', { mode: 0o711 })).d, opaque);
  });

  it('is not opaque if the archive has a device 0:0 at that name, because that deletes nothing', () => {
    const { xattrs: _, ...plain } = opaque;
    assert.deepEqual(overlayTree(device('d', 'c', 0, 0), named), { d: plain });
  });
});

it('a device 0:0 of the archive is not replaced by an implied directory, even if the layer deletes its name', () => {
  const node = device('x', 'c', 0, 0);
  for (const before of [[node], [whiteout('x'), node], [node, whiteout('x')], [whiteout('x'), node, whiteout('x')]]) {
    assert.throws(() => overlayTree(...before, file('x/y')), /a file is in the way of a directory/);
  }
  assert.ok('x/y' in overlayTree(device('x', 'c', 0, 0), file('x'), directory('x'), whiteout('x'), file('x/y')));
});
