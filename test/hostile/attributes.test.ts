import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { applyTar } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { device, directory, fifo, file, hardlink, symlink, tar } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';
import { attack, refused } from './attack.ts';

describe('modes, owners and times', () => {
  it('are never changed through a symbolic link (CVE-2021-41089 of Docker)', () => {
    attack((outside) =>
      tar(
        symlink('l', `${outside}/canary`, { mode: 0o7777, uid: 9, mtime: 9 }),
        symlink('s', outside, { mode: 0o7777, uid: 9, mtime: 9 }),
        hardlink('h', 'l', { mode: 0o4777, uid: 7, mtime: 7 }),
        directory('s/sub', { mode: 0o777, uid: 9, mtime: 9 }),
      ),
    );
    attack(
      tar(directory('d'), symlink('d', '../outside', { mode: 0o700, mtime: 7 }), directory('d/sub', { mode: 0o777 })),
    );
  });

  it('of directories, set last, do not follow a link in the directory’s place', () => {
    attack((outside) =>
      tar(
        directory('d', { mtime: 7 }),
        directory('d/sub', { mtime: 7 }),
        directory('e', { mtime: 7 }),
        symlink('d', outside),
        symlink('e', '../outside/canary'),
      ),
    );
  });

  it('of a directory are left out if its path has become a file or a loop', () => {
    const { nothing } = attack(
      tar(directory('a/b/c', { mtime: 7 }), file('a', 'x'), directory('p/q', { mtime: 7 }), symlink('p', 'p')),
    );
    assert.equal(nothing.error, undefined);
    assert.equal(nothing.tree.a?.content, 'x');
  });

  it('may be any, even setuid, inside the root', () => {
    const { nothing } = attack(tar(file('su', 'x', { mode: 0o6755 }), hardlink('su2', 'su', { mode: 0o4711, uid: 3 })));
    assert.equal(nothing.tree.su?.mode, '4711');
    assert.equal(nothing.tree.su2?.owner, '3:0');
  });
});

describe('extended attributes', () => {
  const overlay = [
    'opaque',
    'redirect',
    'metacopy',
    'origin',
    'impure',
    'nlink',
    'upper',
    'overlay.whiteout',
    'whiteout',
  ];

  it('of overlayfs are never set, in whichever spelling', () => {
    const pax = overlay.flatMap((name) => [
      [`SCHILY.xattr.trusted.overlay.${name}`, '/outside'] as const,
      [`LIBARCHIVE.xattr.trusted.overlay.${name}`, 'eQ'] as const,
      [`LIBARCHIVE.xattr.trusted%2eoverlay%2E${name}`, 'eQ'] as const,
      [`LIBARCHIVE.xattr.%74rusted.overlay.${name}`, 'eQ'] as const,
    ]);
    const { later: left } = attack(tar(directory('d', { pax }), file('f', '', { pax }), file('g', '', { pax })));
    assert.equal(left.error, undefined);
    for (const node of Object.values(left.tree)) assert.equal(node.xattrs, undefined);
  });

  it('of overlays that ordinary users mount are never set', () => {
    using dir = scratch();
    const pax = overlay.map((name) => [`SCHILY.xattr.user.overlay.${name}`, 'y'] as const);
    const archive = tar(directory('d', { pax: [...pax, ['SCHILY.xattr.user.note', 'y']] }));
    const target = { root: dir.path, below: 'later', opaqueXattr: 'user.overlay.opaque' } as const;
    assert.equal(applyTar(archive, target).warnings.length, overlay.length);
    assert.deepEqual(readTree(dir.path).d?.xattrs, { 'user.note': 'y' });
  });

  it('are never set through a symbolic link', () => {
    const pax = [
      ['SCHILY.xattr.security.capability', Buffer.from('0100000200040000000000000000000000000000', 'hex')],
      ['SCHILY.xattr.user.x', 'y'],
    ] as const;
    attack((outside) =>
      tar(
        symlink('l', `${outside}/canary`, { pax }),
        symlink('s', outside, { pax: [['SCHILY.xattr.user.x', 'y']] }),
        hardlink('h', 'l', { pax }),
        directory('s/sub', { pax }),
      ),
    );
  });

  it('are refused if the name is empty, too long, or has a NUL', () => {
    const wrong = [
      ['', 'LAYER_CORRUPT', /"f".*an extended attribute has an empty name/],
      [`user.${'k'.repeat(300)}`, 'LIMIT_EXCEEDED', /"f".*ERANGE/],
      ['user.a\0b', 'LAYER_CORRUPT', /NUL/],
    ] as const;
    for (const [name, code, text] of wrong) {
      for (const value of ['y', '']) {
        refused(tar(file('f', '', { pax: [[`SCHILY.xattr.${name}`, value]] })), code, text);
      }
    }
  });

  it('with an empty value are set, except a file capability in a tree that is copied, because it can’t be read', () => {
    const pax = [
      ['SCHILY.xattr.user.empty', ''],
      ['SCHILY.xattr.security.capability', ''],
      ['LIBARCHIVE.xattr.user.other', ''],
    ] as const;
    for (const copied of [false, true]) {
      using dir = scratch();
      const archive = tar(directory('d', { pax }), file('f', 'x', { pax }), file('d/g'));
      const { warnings } = applyTar(archive, { root: dir.path, copied });
      const xattrs = { 'user.empty': '', ...(copied ? {} : { 'security.capability': '' }), 'user.other': '' };
      for (const node of [readTree(dir.path).d, readTree(dir.path).f]) assert.deepEqual(node?.xattrs, xattrs);
      assert.equal(warnings.length, copied ? 1 : 0);
      // an implied directory gets its attributes from this one
      using above = scratch();
      applyTar(tar(file('d/h')), { root: above.path, lowers: [dir.path], below: 'parent' });
      assert.deepEqual(readTree(above.path).d?.xattrs, xattrs);
    }
  });

  it('that containerd does not read are left out if the kernel refuses them', () => {
    const pax = [
      ['LIBARCHIVE.xattr.user.a%00b', 'eQ'],
      ['LIBARCHIVE.xattr.', 'eQ'],
      [`LIBARCHIVE.xattr.user.${'k'.repeat(300)}`, 'eQ'],
      ['LIBARCHIVE.xattr.security.capability', 'eQ'],
      ['LIBARCHIVE.xattr.user.fine', 'eQ'],
    ] as const;
    using dir = scratch();
    const { warnings } = applyTar(tar(file('f', '', { pax })), { root: dir.path });
    assert.equal(warnings.length, 2);
    assert.deepEqual(readTree(dir.path).f?.xattrs, { 'user.fine': 'y' });
  });

  it('in any number cause only a few warnings', () => {
    using dir = scratch();
    const members = Array.from({ length: 500 }, (_, i) =>
      file(`f${i}`, '', { pax: [[`SCHILY.xattr.trusted.${'k'.repeat(500)}${i}\n`, 'x']] }),
    );
    const distinct = Array.from({ length: 500 }, (_, i) => fifo(`p${i}`, { pax: [[`SCHILY.xattr.user.${i}`, 'x']] }));
    const { warnings } = applyTar(tar(...members, ...distinct), { root: dir.path });
    assert.ok(warnings.length < 30, `${warnings.length} sentences`);
    for (const sentence of warnings) assert.match(sentence, /^[\x20-\x7e…]{1,500}$/);
    assert.match(warnings.at(-1) ?? '', /^left out \d+ more/);
  });
});

describe('devices', () => {
  it('are made and never opened', () => {
    const { nothing } = attack(tar(device('null', 'c', 1, 3), device('disk', 'b', 8, 0), fifo('p'), file('null', 'x')));
    assert.equal(nothing.tree.null?.content, 'x');
  });

  it('with numbers out of range are refused', () => {
    const numbers = (major: number) => (block: Buffer) => {
      block.fill(0, 329, 337);
      block[329] = 0x80;
      block.writeUInt32BE(major, 332);
      if (major === 0) block.fill(0xff, 329, 337);
    };
    refused(tar(device('d', 'c', 0, 0, { patch: numbers(0) })), 'LAYER_CORRUPT', /device number -1:0/);
  });
});
