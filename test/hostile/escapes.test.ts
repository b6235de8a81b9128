import assert from 'node:assert/strict';
import { linkSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { applyTar, folder } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import {
  device,
  directory,
  fifo,
  file,
  gnuLong,
  hardlink,
  member,
  opaque,
  symlink,
  tar,
  whiteout,
} from '../support/tar.ts';
import { readTree } from '../support/tree.ts';
import { attack, contained, refused } from './attack.ts';

/** A test of a published attack has its CVE number and the program that was vulnerable. */

describe('names that lead out of the root', () => {
  it('with ".." end inside the root (CVE-2007-4559 of Python’s tarfile, CVE-2016-6321 of GNU tar)', () => {
    const tree = contained(
      tar(file('../outside/canary', 'dead'), file('/../../outside/canary', 'dead'), file('a/../../outside/x')),
      ['outside', 'outside/canary', 'outside/x'],
    );
    assert.equal(tree['outside/canary']?.content, 'dead');
  });

  it('with ".." after a link to a directory end inside the root', () => {
    attack((outside) =>
      tar(symlink('l', outside), file('l/../canary', 'dead'), directory('l/../../x', { mode: 0o777 })),
    );
  });

  it('that are absolute, or are so without their first part, end inside the root (CVE-2021-32804 of node-tar)', () => {
    attack((outside) => tar(file(`${outside}/canary`, 'dead'), file(`//${outside}/canary`, 'dead'), file('///etc/x')));
  });

  it('in the ustar prefix, in a PAX record or in a GNU long name are the same as in the header', () => {
    const prefix = (block: Buffer): void => void block.write('../outside', 345, 'latin1');
    attack(tar(file('canary', 'dead', { patch: prefix })));
    attack(tar(file('x', 'dead', { pax: [['path', '../outside/canary']] })));
    attack(tar(gnuLong('L', '../outside/canary'), file('x', 'dead')));
    attack(tar(gnuLong('K', '../outside/canary'), hardlink('h', 'x', { mode: 0o777 })));
    const sparse = [
      ['GNU.sparse.major', '1'],
      ['GNU.sparse.minor', '0'],
      ['GNU.sparse.realsize', '1'],
      ['GNU.sparse.name', '../outside/canary'],
    ] as const;
    attack(
      tar(file('x', Buffer.concat([Buffer.from('1\n0\n1\n'.padEnd(512, '\0')), Buffer.from('d')]), { pax: sparse })),
    );
  });

  it('with backslashes are ordinary names (CVE-2021-37701, CVE-2021-37713 of node-tar)', () => {
    contained(tar(file('..\\outside\\canary', 'dead'), file('C:\\x')), ['..\\outside\\canary', 'C:\\x']);
  });

  it('that differ only in case or Unicode form are two files (CVE-2021-37712, CVE-2026-23950 of node-tar)', () => {
    const archive = (outside: string) =>
      tar(
        symlink('caf\u00e9', outside),
        file('cafe\u0301/canary', 'dead'),
        symlink('ss', outside),
        file('\u00df/canary', 'dead'),
        symlink('dir', outside),
        file('DIR/canary', 'dead'),
      );
    const { tree } = attack(archive).nothing;
    assert.equal(Object.keys(tree).filter((path) => path.endsWith('/canary')).length, 3);
  });

  it('with a NUL are refused in a PAX record and cut in a GNU long name, as in Go', () => {
    refused(tar(file('x', 'dead', { pax: [['path', 'a\0/../../outside/canary']] })), 'LAYER_CORRUPT', /NUL/);
    refused(tar(symlink('x', 'y', { pax: [['linkpath', 'a\0b']] })), 'LAYER_CORRUPT', /NUL/);
    contained(tar(gnuLong('L', 'short\0/../../outside/canary'), file('x', 'inside')), ['short']);
  });
});

describe('links used as directories', () => {
  it('never lead outside, relative or absolute (CVE-2014-6407, CVE-2014-9356 of Docker; CVE-2011-5325 of BusyBox)', () => {
    attack(tar(symlink('l', '../outside'), file('l/canary', 'dead'), directory('l/sub', { mode: 0o777 })));
    attack(tar(symlink('l', '..'), symlink('l/m', 'outside'), file('l/outside/canary', 'dead')));
    attack(tar(symlink('a', 'b'), symlink('b', '../outside'), file('a/canary', 'dead')));
    const { tree } = attack((outside) => tar(symlink('l', outside), file('l/canary', 'inside'))).later;
    assert.ok(
      Object.entries(tree).some(([path, { content }]) => path.endsWith('outside/canary') && content === 'inside'),
    );
  });

  it('never lead outside if one is made through another (CVE-2020-27833 of oc)', () => {
    attack(
      tar(
        directory('sub'),
        symlink('sub/parent', '..'),
        symlink('sub/parent/up', '..'),
        symlink('sub/parent/canary', '../outside/canary'),
        file('up/outside/canary', 'dead'),
        file('sub/parent/up/outside/canary', 'dead'),
      ),
    );
  });

  it('that replace a directory are not mistaken for it (CVE-2021-32803 of node-tar)', () => {
    attack(
      tar(directory('d'), file('d/x'), symlink('d', '../outside'), file('d/canary', 'dead'), file('d/sub/canary')),
    );
    attack(
      tar(file('d/e/x'), symlink('d', '../outside'), file('d/sub/canary', 'dead'), symlink('d', '/'), file('d/y')),
    );
    attack((outside) =>
      tar(file('foo/tmp/x'), symlink('foo', '/'), file(`foo/${outside}/canary`, 'dead'), whiteout('foo')),
    );
  });

  it('may replace a directory, and be replaced, any number of times', () => {
    const turns = Array.from({ length: 50 }, () => [
      directory('d'),
      file('d/canary', 'in'),
      symlink('d', '../outside'),
      file('d/canary', 'dead'),
    ]);
    attack(tar(...turns.flat()));
  });

  it('in place of the root or its parent are ignored (CVE-2021-29136 of umoci)', () => {
    for (const name of ['.', './', '/', '', 'a/..', '..', '../..', './.']) {
      attack((outside) => tar(symlink(name, outside), file('canary', 'in'), hardlink('h', 'canary', { mode: 0o777 })));
    }
  });

  it('with targets longer than a path may be are still followed inside the root (CVE-2025-4517 of Python’s tarfile)', () => {
    const long = 'd'.repeat(247);
    const members = [];
    let at = '';
    for (const name of 'abcdefghijklmnop') {
      members.push(directory(`${at}${long}`), symlink(`${at}${name}`, long));
      at += `${name}/`;
    }
    attack(
      tar(
        ...members.map((entry) => ({ ...entry, pax: [['path', String(entry.name)] as const] })),
        symlink(`${at}l`.slice(0, 99), '../'.repeat(16)),
        symlink('escape', `${at}l/../../outside`),
        file('escape/canary', 'dead'),
      ),
    );
  });

  it('in a loop are not followed forever', () => {
    refused(tar(symlink('a', 'b'), symlink('b', 'a'), file('a/x')), 'LAYER_CORRUPT', /"a\/x".*ELOOP/);
    refused(tar(symlink('a', 'a'), file('a/x')), 'LAYER_CORRUPT', /"a\/x".*ELOOP/);
    refused(tar(symlink('a', 'a/a'), hardlink('h', 'a/x')), 'LAYER_CORRUPT', /"h".*ELOOP/);
  });

  it('that multiply the steps of a path are not followed forever', () => {
    const back = '../x/'.repeat(800);
    const members = [directory('x'), symlink('x/a', 'y', { pax: [['linkpath', `${back}b`]] })];
    members.push(
      symlink('x/b', 'y', { pax: [['linkpath', `${back}c`]] }),
      symlink('x/c', 'y', { pax: [['linkpath', `${back}a`]] }),
    );
    const before = process.cpuUsage();
    refused(tar(...members, file('x/a/f')), 'LAYER_CORRUPT', /ELOOP/);
    assert.ok(process.cpuUsage(before).user < 5_000_000);
  });

  it('of another process never lead outside', () => {
    attack(tar(file('planted/canary', 'dead'), whiteout('planted/canary'), opaque('planted')), {
      prepare: (root, outside) => symlinkSync(outside, join(root, 'planted')),
    });
    attack(tar(file('planted', 'dead')), {
      prepare: (root, outside) => symlinkSync(join(outside, 'canary'), join(root, 'planted')),
    });
  });

  it('through /proc never lead outside', () => {
    attack((outside) =>
      tar(
        symlink('l', '/proc/self/root'),
        file(`l${outside}/canary`, 'dead'),
        symlink('m', '/proc/self/fd/3/..'),
        file('m/outside/canary', 'dead'),
      ),
    );
  });
});

describe('hard links', () => {
  it('to files outside are refused (CVE-2018-20834, CVE-2026-23745 of node-tar; CVE-2026-50163 of oras-go)', () => {
    for (const target of ['../outside/canary', '/../outside/canary', 'd/../../outside/canary']) {
      refused(
        tar(directory('d'), hardlink('h', target, { mode: 0o4777, uid: 5 }), file('h', 'dead')),
        'LAYER_CORRUPT',
        /"h"/,
      );
    }
    refused((outside) => tar(hardlink('h', `${outside}/canary`, { mode: 0o777 })), 'LAYER_CORRUPT', /does not hold/);
  });

  it('are not resolved from the working directory of the process (CVE-2026-50163 of oras-go)', () => {
    refused(tar(hardlink('h', 'package.json', { mode: 0o777 })), 'LAYER_CORRUPT', /does not hold/);
  });

  it('through symbolic links to files outside are refused', () => {
    refused(tar(symlink('l', '../outside'), hardlink('h', 'l/canary'), file('h', 'dead')), 'LAYER_CORRUPT', /"h"/);
    attack((outside) => tar(symlink('l', outside), hardlink('h', 'l/canary', { mode: 0o777 }), file('h', 'dead')));
    attack(tar(symlink('b/d1', '../../outside'), hardlink('b/mine', '/b/d1/canary', { mode: 0o777, uid: 9 })));
  });

  it('to a symbolic link are links to it; its target keeps mode, owner and times', () => {
    attack(
      tar(symlink('l', '../outside/canary'), hardlink('h', 'l', { mode: 0o4777, uid: 7, mtime: 7 }), file('h', 'dead')),
    );
    attack((outside) =>
      tar(symlink('l', `${outside}/canary`), hardlink('h', 'l', { mode: 0o777 }), hardlink('i', 'h')),
    );
  });

  it('with content write no content (CVE-2016-5418 of libarchive)', () => {
    const withContent = Buffer.concat([member(hardlink('h', 'l', { size: 4 })), Buffer.from('dead'.padEnd(512, '\0'))]);
    refused(tar(symlink('l', '../outside/canary'), withContent), 'LAYER_CORRUPT', /checksum/);
  });

  it('of another process to files outside are replaced, not written through', () => {
    for (const useOpenat2 of [true, false]) {
      using dir = scratch();
      const [root, outside] = [folder(dir.path, 'root'), folder(dir.path, 'outside')];
      writeFileSync(join(outside, 'canary'), 'alive', { mode: 0o640 });
      linkSync(join(outside, 'canary'), join(root, 'shared'));
      const before = readTree(outside);
      const archive = tar(file('shared', 'dead', { mode: 0o4777, uid: 5 }), whiteout('shared'), file('shared', 'more'));
      applyTar(archive, { root, below: 'parent' }, { useOpenat2 });
      assert.deepEqual(readTree(outside), before);
    }
  });

  it('to a directory, or to a file that this layer does not have, are refused', () => {
    refused(tar(directory('d'), hardlink('h', 'd')), 'LAYER_CORRUPT', /cannot be linked/);
    refused(tar(hardlink('h', 'nothing')), 'LAYER_CORRUPT', /does not hold/);
    refused(tar(hardlink('h', 'h')), 'LAYER_CORRUPT', /does not hold/);
    for (const target of ['d/..', '..', '.', '', '/'])
      refused(tar(hardlink('h', target)), 'LAYER_CORRUPT', /to a directory/);
  });
});

describe('whiteouts', () => {
  it('through symbolic links delete nothing outside', () => {
    const prepare = (root: string, outside: string) => {
      symlinkSync(outside, join(root, 'planted'));
      mkdirSync(join(root, 'old'));
      symlinkSync(outside, join(root, 'old/l'));
      symlinkSync(join(outside, 'canary'), join(root, 'old/canary'));
    };
    attack(tar(whiteout('planted/canary'), whiteout('planted/sub'), opaque('planted'), whiteout('planted')), {
      prepare,
    });
    attack(tar(opaque('old'), whiteout('old/l'), whiteout('old')), { prepare });
    attack(tar(symlink('l', '../outside'), whiteout('l/canary'), whiteout('l/sub'), opaque('l'), opaque('l/sub')));
    attack((outside) => tar(symlink('l', outside), whiteout('l/canary'), opaque('l')));
  });

  it('of an empty name, of “.” and of “..” are refused', () => {
    for (const name of ['.wh.', '.wh..', '.wh...', 'd/.wh...', 'd/.wh..', '/.wh.', '../.wh...']) {
      refused(tar(file(name)), 'LAYER_UNSAFE', /whiteout/);
    }
  });

  it('of a whiteout’s name delete only a file with that name', () => {
    attack(tar(file('.wh..wh.a'), file('.wh..wh..wh.a'), file('.wh..wh..opq/x'), file('.wh.a/b'), whiteout('.wh.x')));
  });

  it('never open what they delete, so a FIFO or a device does not block them (CVE-2024-9676 of containers/storage)', () => {
    const prepare = (root: string) => mkdirSync(join(root, 'd'));
    attack(
      tar(fifo('d/p'), device('d/c', 'c', 1, 3), file('d/p', 'x'), file('d/c', 'y'), whiteout('d/p'), opaque('d')),
      { prepare },
    );
    attack(tar(fifo('p'), hardlink('q', 'p'), file('p/f')));
  });
});

describe('a file that is not a directory', () => {
  it('can’t be used as one', () => {
    for (const taken of [file('f', 'x'), device('f', 'c', 1, 3), device('f', 'b', 8, 0), fifo('f')]) {
      refused(tar(taken, file('f/g')), 'LAYER_CORRUPT', /"f\/g".*ENOTDIR/);
      refused(tar(taken, hardlink('h', 'f/g')), 'LAYER_CORRUPT', /"h"/);
      refused(tar(taken, symlink('l', 'f'), file('l/g')), 'LAYER_CORRUPT', /"l\/g".*ENOTDIR/);
    }
    refused(tar(file('f', 'x'), opaque('f')), 'LAYER_CORRUPT', /ENOTDIR/);
  });

  it('is replaced by a directory if it is a whiteout of the same layer', () => {
    const { later, parent } = attack(tar(whiteout('f'), file('f/g')), {
      prepare: (root) => writeFileSync(join(root, 'other'), ''),
    });
    assert.ok(later.tree['f/g'] !== undefined && parent.tree['f/g'] !== undefined);
  });
});
