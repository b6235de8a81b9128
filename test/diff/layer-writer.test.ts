import assert from 'node:assert/strict';
import { chmodSync, chownSync, closeSync, lstatSync, mkdirSync, openSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { LayerWriter } from '../../src/diff/layer-writer.ts';
import type { Below } from '../../src/diff/target.ts';
import { UnpackError } from '../../src/errors.ts';
import { cString, setXattrAt } from '../../src/system/files.ts';
import { applyTar, diffTarget, folder } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { device, directory, fifo, file, hardlink, opaque, symlink, tar, whiteout } from '../support/tar.ts';
import { type Node, paths, readTree } from '../support/tree.ts';

/** The tree that an archive leaves in an empty directory. It must be the same with openat2 and without it. */
function treeOf(archive: Buffer, below: Below = 'nothing'): Record<string, Node> {
  using dir = scratch();
  const root = folder(dir.path, 'with');
  applyTar(archive, { root, below });
  const tree = readTree(root);
  const other = folder(dir.path, 'without');
  applyTar(archive, { root: other, below }, { useOpenat2: false, cut: 777 });
  const nameless = (all: Record<string, Node>) => Object.entries(all).map(([path, { mtime, ...node }]) => [path, node]);
  assert.deepEqual(nameless(readTree(other)), nameless(tree), 'with and without openat2');
  return tree;
}

function refuses(archive: Buffer, code: string, text: RegExp): void {
  using dir = scratch();
  assert.throws(
    () => applyTar(archive, { root: dir.path }),
    (error) => {
      assert.ok(error instanceof UnpackError, String(error));
      assert.equal(error.code, code, error.message);
      assert.match(error.message, text);
      return true;
    },
  );
}

const SECOND = 1_000_000_000n;

describe('entries', () => {
  it('become files, directories, links, devices and FIFOs with mode, owner and times', () => {
    const tree = treeOf(
      tar(
        directory('d', { mode: 0o1770, uid: 7, gid: 8, mtime: 1000 }),
        file('d/f', 'hello', { mode: 0o4755, uid: 1000, gid: 1001, mtime: 2000 }),
        symlink('d/s', '/etc/passwd', { uid: 5, gid: 6, mtime: 3000 }),
        device('d/c', 'c', 1, 3, { mode: 0o666, mtime: 4000 }),
        device('d/b', 'b', 259, 70_000, { mode: 0o600 }),
        fifo('d/p', { mode: 0o644 }),
      ),
    );
    assert.deepEqual(tree.d, { type: 'directory', mode: '1770', owner: '7:8', mtime: 1000n * SECOND });
    assert.deepEqual(tree['d/f'], {
      type: 'file',
      mode: '4755',
      owner: '1000:1001',
      content: 'hello',
      size: 5,
      mtime: 2000n * SECOND,
    });
    assert.equal(tree['d/s']?.target, '/etc/passwd');
    assert.equal(tree['d/s']?.owner, '5:6');
    assert.equal(tree['d/s']?.mtime, 3000n * SECOND);
    assert.equal(tree['d/c']?.device, '1:3');
    assert.equal(tree['d/c']?.mode, '0666');
    assert.equal(tree['d/b']?.device, '259:70000');
    assert.equal(tree['d/p']?.type, 'fifo');
  });

  it('keep names that are not UTF-8, byte for byte', () => {
    const name = Buffer.from([0x66, 0xff, 0x80, 0x0a]);
    assert.deepEqual(Object.keys(treeOf(tar(file(name, 'x')))), [name.toString('latin1')]);
  });

  it('keep times to the nanosecond', () => {
    const tree = treeOf(tar(file('f', '', { pax: [['mtime', '1700000000.123456789']] })));
    assert.equal(tree.f?.mtime, 1_700_000_000_123_456_789n);
  });

  it('keep file capabilities and other extended attributes, which are set after the owner', () => {
    const capability = Buffer.from('0100000200040000000000000000000000000000', 'hex');
    const tree = treeOf(
      tar(
        file('ping', 'x', {
          uid: 1,
          mode: 0o755,
          pax: [
            ['SCHILY.xattr.security.capability', capability],
            ['SCHILY.xattr.user.note', 'a\nb'],
          ],
        }),
      ),
    );
    assert.equal(tree.ping?.xattrs?.['security.capability'], capability.toString('latin1'));
    assert.equal(tree.ping?.xattrs?.['user.note'], 'a\nb');
  });

  it('never set trusted attributes; there is one warning', () => {
    using dir = scratch();
    const pax = [['SCHILY.xattr.trusted.overlay.opaque', 'y']] as const;
    const { warnings } = applyTar(tar(directory('a', { pax }), directory('b', { pax })), { root: dir.path });
    assert.equal(readTree(dir.path).a?.xattrs, undefined);
    assert.equal(warnings.length, 1);
    assert.match(warnings[0] ?? '', /trusted\.overlay\.opaque.*1 more/);
  });

  it('leave out user attributes of files that cannot have them, with a warning', () => {
    using dir = scratch();
    const { warnings } = applyTar(tar(fifo('p', { pax: [['SCHILY.xattr.user.x', 'y']] })), { root: dir.path });
    assert.match(warnings.join(), /only files and directories can have it/);
  });

  it('leave out user attributes of a hard link whose target cannot have them, with a warning', () => {
    for (const target of [fifo('t'), device('t', 'c', 1, 3), symlink('t', 'x')]) {
      using dir = scratch();
      const { warnings } = applyTar(tar(target, hardlink('h', 't', { pax: [['SCHILY.xattr.user.x', 'y']] })), {
        root: dir.path,
      });
      assert.match(warnings.join(), /only files and directories can have it/);
    }
  });

  it('keep holes as holes', () => {
    using dir = scratch();
    const map = '0,1,67108863,1';
    const pax = [
      ['GNU.sparse.size', '67108864'],
      ['GNU.sparse.numblocks', '2'],
      ['GNU.sparse.map', map],
    ] as const;
    applyTar(tar(file('sparse', 'ab', { pax })), { root: dir.path });
    const stat = lstatSync(join(dir.path, 'sparse'));
    assert.equal(stat.size, 67_108_864);
    assert.ok(stat.blocks < 100, `${stat.blocks} blocks`);
  });

  it('give a file that ends in a hole its whole length', () => {
    const pax = [
      ['GNU.sparse.size', '5000'],
      ['GNU.sparse.numblocks', '0'],
      ['GNU.sparse.major', '0'],
      ['GNU.sparse.minor', '1'],
    ] as const;
    assert.equal(treeOf(tar(file('hole', '', { pax }))).hole?.size, 5000);
  });

  it('share an inode if they are hard links; the last entry sets the attributes', () => {
    const tree = treeOf(tar(file('a', 'x', { mode: 0o600 }), hardlink('d/b', 'a', { mode: 0o644, uid: 3 })));
    assert.equal(tree['d/b']?.linkedTo, 'a');
    assert.equal(tree.a?.mode, '0644');
    assert.equal(tree.a?.owner, '3:0');
  });

  it('link to a symbolic link itself', () => {
    const tree = treeOf(tar(symlink('s', 'nowhere'), hardlink('h', 's')));
    assert.equal(tree.h?.type, 'symlink');
    assert.equal(tree.h?.linkedTo, undefined);
    assert.equal(tree.s?.linkedTo, 'h');
  });

  it('for the root directory change nothing', () => {
    using dir = scratch();
    const before = lstatSync(dir.path);
    applyTar(tar(directory('./', { mode: 0o700, uid: 9 }), directory('/'), file('a/..', 'x')), { root: dir.path });
    assert.equal(lstatSync(dir.path).mode, before.mode);
    assert.equal(lstatSync(dir.path).uid, before.uid);
    assert.deepEqual(paths(dir.path), []);
  });

  it('with names like ./a//b are written to the cleaned path', () => {
    assert.deepEqual(Object.keys(treeOf(tar(file('./a//b/./c'), file('/abs'), file('x/../y')))), [
      'a',
      'a/b',
      'a/b/c',
      'abs',
      'y',
    ]);
  });
});

describe('an entry whose name exists', () => {
  it('replaces a file, a link or a whole directory', () => {
    const tree = treeOf(
      tar(
        file('f', 'old'),
        file('f', 'new'),
        symlink('s', 'f'),
        file('s', 'not through the link'),
        file('d/deep/x', 'x'),
        file('d', 'file now'),
      ),
    );
    assert.equal(tree.f?.content, 'new');
    assert.equal(tree.s?.content, 'not through the link');
    assert.equal(tree.d?.content, 'file now');
    assert.equal(tree['d/deep/x'], undefined);
  });

  it('merges a directory with an existing one: the content stays, the entry sets the attributes', () => {
    const tree = treeOf(
      tar(directory('d', { mode: 0o700 }), file('d/f', 'x'), directory('d', { mode: 0o711, mtime: 77 })),
    );
    assert.equal(tree.d?.mode, '0711');
    assert.equal(tree.d?.mtime, 77n * SECOND);
    assert.equal(tree['d/f']?.content, 'x');
  });

  it('replaces a symbolic link to a directory by a directory', () => {
    const tree = treeOf(tar(directory('real'), symlink('d', 'real'), directory('d'), file('d/f', 'x')));
    assert.equal(tree.d?.type, 'directory');
    assert.equal(tree['real/f'], undefined);
  });
});

describe('directory times', () => {
  it('are set after the last entry', () => {
    const tree = treeOf(
      tar(directory('d', { mtime: 1000 }), file('d/f', 'x'), directory('d/e', { mtime: 2000 }), file('d/e/g', 'x')),
    );
    assert.equal(tree.d?.mtime, 1000n * SECOND);
    assert.equal(tree['d/e']?.mtime, 2000n * SECOND);
  });

  it('go to a file that a later entry has put in the directory’s place, as in containerd', () => {
    assert.equal(treeOf(tar(directory('d', { mtime: 1000 }), file('d', 'x', { mtime: 5 }))).d?.mtime, 1000n * SECOND);
  });
});

describe('implied directories', () => {
  it('have mode 0755', () => {
    assert.equal(treeOf(tar(file('a/b/c', 'x')))['a/b']?.mode, '0755');
  });

  it('get owner, mode, times and extended attributes from the nearest layer below that has the directory', () => {
    using dir = scratch();
    const near = folder(dir.path, 'near');
    const far = folder(dir.path, 'far');
    for (const [root, mode, time] of [
      [near, 0o2751, 1000],
      [far, 0o700, 2000],
    ] as const) {
      mkdirSync(join(root, 'a/b'), { recursive: true });
      mkdirSync(join(far, 'only-far'), { recursive: true });
      chownSync(join(root, 'a'), 5, 6);
      chmodSync(join(root, 'a'), mode);
      const fd = openSync(root, 'r');
      setXattrAt(fd, cString('a'), cString('user.kept'), Buffer.from('yes'));
      setXattrAt(fd, cString('a'), cString('trusted.left'), Buffer.from('no'));
      closeSync(fd);
      utimesSync(join(root, 'a'), time, time);
    }
    chmodSync(join(far, 'only-far'), 0o711);
    const root = folder(dir.path, 'upper');
    applyTar(tar(file('a/b/c', 'x'), file('only-far/f')), { root, lowers: [near, far], below: 'parent' });
    const tree = readTree(root);
    assert.deepEqual(tree.a, {
      type: 'directory',
      mode: '2751',
      owner: '5:6',
      mtime: 1000n * SECOND,
      xattrs: { 'user.kept': 'yes' },
    });
    assert.equal(tree['only-far']?.mode, '0711');
  });

  it('keep mode 0755 if the nearest layer below has another type of file there', () => {
    using dir = scratch();
    const near = folder(dir.path, 'near');
    const far = folder(dir.path, 'far');
    writeFileSync(join(near, 'a'), '');
    mkdirSync(join(far, 'a'), { mode: 0o700 });
    const root = folder(dir.path, 'upper');
    applyTar(tar(file('a/f')), { root, lowers: [near, far], below: 'parent' });
    assert.equal(readTree(root).a?.mode, '0755');
  });

  it('get the attributes of a later entry that names them', () => {
    using dir = scratch();
    const lower = folder(dir.path, 'lower');
    mkdirSync(join(lower, 'a'), { mode: 0o700 });
    const root = folder(dir.path, 'upper');
    applyTar(tar(file('a/f'), directory('a', { mode: 0o751, mtime: 9 })), {
      root,
      lowers: [lower],
      below: 'parent',
    });
    assert.equal(readTree(root).a?.mode, '0751');
    assert.equal(readTree(root).a?.mtime, 9n * SECOND);
  });
});

describe('whiteouts in an overlay', () => {
  it('are character devices 0:0 with the entry’s owner', () => {
    const tree = treeOf(tar(whiteout('d/gone', { uid: 3, gid: 4 })), 'later');
    assert.equal(tree['d/gone']?.type, 'character');
    assert.equal(tree['d/gone']?.device, '0:0');
    assert.equal(tree['d/gone']?.owner, '3:4');
  });

  it('make a directory opaque', () => {
    const tree = treeOf(tar(directory('d'), opaque('d'), file('d/new', 'x')), 'later');
    assert.equal(tree.d?.xattrs?.['trusted.overlay.opaque'], 'y');
    assert.equal(tree['d/new']?.content, 'x');
    assert.deepEqual(Object.keys(tree), ['d', 'd/new']);
  });

  it('hide what is below but never what the same layer adds, in any order', () => {
    for (const order of [
      [file('f', 'mine'), whiteout('f')],
      [whiteout('f'), file('f', 'mine')],
    ]) {
      assert.equal(treeOf(tar(...order), 'later').f?.content, 'mine');
    }
  });

  it('of a directory that the layer also makes leave it opaque, in any order', () => {
    const opaqueOnly = { 'trusted.overlay.opaque': 'y' };
    for (const order of [
      [whiteout('d'), directory('d'), file('d/f', 'x')],
      [directory('d'), file('d/f', 'x'), whiteout('d')],
      [whiteout('d'), file('d/f', 'x')],
      [file('d', 'file'), whiteout('d'), directory('d'), file('d/f', 'x')],
    ]) {
      const tree = treeOf(tar(...order), 'later');
      assert.deepEqual(tree.d?.xattrs, opaqueOnly);
      assert.equal(tree['d/f']?.content, 'x');
    }
  });

  it('with names of AUFS files in the root are ignored, and so is the content of AUFS directories', () => {
    for (const below of ['later', 'parent', 'nothing'] as const) {
      const entries = [
        directory('.wh..wh.plnk/'),
        file('.wh..wh.plnk/1.2', 'x'),
        directory('./.wh..wh.orph'),
        file('.wh..wh.aufs'),
        file('.wh..wh.'),
        directory('.wh..wh.orph/a/b', { mtime: 5 }),
        file('/.wh..wh.orph/a/b/c'),
        whiteout('.wh..wh.orph/a/x'),
        opaque('.wh..wh.orph/a'),
        symlink('.wh..wh.plnk/l', '1.2'),
      ];
      assert.deepEqual(treeOf(tar(...entries), below), {});
    }
  });

  it('with such names in other directories delete names that begin with .wh.', () => {
    assert.deepEqual(Object.keys(treeOf(tar(file('d/.wh..wh.plnk'), file('d/.wh..wh.')), 'later')), [
      'd',
      'd/.wh.',
      'd/.wh.plnk',
    ]);
    assert.deepEqual(Object.keys(treeOf(tar(file('d/.wh..wh.plnk/f')), 'later')), [
      'd',
      'd/.wh..wh.plnk',
      'd/.wh..wh.plnk/f',
    ]);
  });

  it('do not remove the targets of hard links into AUFS directories', () => {
    for (const below of ['later', 'parent', 'nothing'] as const) {
      const tree = treeOf(
        tar(
          directory('.wh..wh.plnk/'),
          file('.wh..wh.plnk/123.456', 'data', { mode: 0o755, pax: [['SCHILY.xattr.user.x', 'y']] }),
          hardlink('bin/x', '/.wh..wh.plnk/123.456', { mode: 0o755 }),
          hardlink('bin/y', '.wh..wh.plnk/123.456', { mode: 0o755 }),
          hardlink('.wh..wh.plnk/7', 'bin/x'),
          hardlink('bin/z', './.wh..wh.plnk/7'),
        ),
        below,
      );
      assert.deepEqual(Object.keys(tree), ['bin', 'bin/x', 'bin/y', 'bin/z']);
      for (const name of ['bin/x', 'bin/y', 'bin/z']) {
        assert.equal(tree[name]?.content, 'data');
        assert.equal(tree[name]?.linkedTo, name === 'bin/x' ? undefined : 'bin/x');
        assert.deepEqual(tree[name]?.xattrs, { 'user.x': 'y' });
      }
    }
    refuses(
      tar(file('.wh..wh.aufs', 'x'), hardlink('a', '.wh..wh.aufs')),
      'LAYER_CORRUPT',
      /which this layer does not hold/,
    );
  });

  it('are refused if they name nothing, “.” or “..”', () => {
    for (const name of ['.wh.', '.wh..', '.wh...', 'd/.wh...']) refuses(tar(file(name)), 'LAYER_UNSAFE', /whiteout/);
  });
});

describe('whiteouts in a full copy', () => {
  const below = (root: string): void => {
    mkdirSync(join(root, 'd/sub'), { recursive: true });
    for (const name of ['d/old', 'd/sub/old', 'gone']) writeFileSync(join(root, name), name);
  };

  it('remove a file or a whole directory', () => {
    using dir = scratch();
    below(dir.path);
    applyTar(tar(whiteout('gone'), whiteout('d')), { root: dir.path, below: 'parent' });
    assert.deepEqual(paths(dir.path), []);
  });

  it('remove files of the layers below from an opaque directory, and keep files of this layer', () => {
    for (const order of [
      [opaque('d'), file('d/new', 'x'), file('d/sub/new', 'x')],
      [file('d/new', 'x'), file('d/sub/new', 'x'), opaque('d')],
    ]) {
      using dir = scratch();
      below(dir.path);
      applyTar(tar(...order), { root: dir.path, below: 'parent' });
      assert.deepEqual(paths(dir.path), ['d', 'd/new', 'd/sub', 'd/sub/new', 'gone']);
    }
  });

  it('never remove what the same layer adds', () => {
    using dir = scratch();
    below(dir.path);
    applyTar(tar(file('gone', 'mine'), whiteout('gone'), directory('d'), file('d/mine'), whiteout('d')), {
      root: dir.path,
      below: 'parent',
    });
    assert.deepEqual(paths(dir.path), ['d', 'd/mine', 'gone']);
  });

  it('do not change the times of implied directories', () => {
    using dir = scratch();
    below(dir.path);
    utimesSync(join(dir.path, 'd'), 1000, 1000);
    applyTar(tar(file('d/new')), { root: dir.path, below: 'parent' });
    assert.equal(readTree(dir.path).d?.mtime, 1000n * SECOND);
  });
});

describe('the layer writer', () => {
  it('refuses calls that do not fit its state', () => {
    using dir = scratch();
    const writer = new LayerWriter(diffTarget({ root: dir.path }));
    assert.throws(() => writer.copyParentAttributes(), /must be finished, but it is writing/);
    writer.finish();
    assert.throws(() => writer.finish(), /must be writing, but it is finished/);
    assert.equal(writer.copyParentAttributes().needsSecondPass, false);
    writer[Symbol.dispose]();
    assert.throws(() => writer.finish(), /must be writing, but it is disposed/);
  });
});
