import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { applyTar } from '../support/apply.ts';
import { ext4, unavailable } from '../support/file-system.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, gnuLong, headerBlock, member, paxHeader, paxRecord, symlink, tar } from '../support/tar.ts';
import { paths } from '../support/tree.ts';
import { attack, contained, refused } from './attack.ts';

describe('names', () => {
  it('that no file system accepts are refused', () => {
    refused(tar(file('f', '', { pax: [['path', 'n'.repeat(256)]] })), 'LIMIT_EXCEEDED', /"nnn.*ENAMETOOLONG/);
    refused(tar(file('f', '', { pax: [['path', `${'n'.repeat(256)}/f`]] })), 'LIMIT_EXCEEDED', /"nnn.*ENAMETOOLONG/);
    refused(tar(file('f', '', { pax: [['path', 'n'.repeat(4096)]] })), 'LIMIT_EXCEEDED', /"nnn.*ENAMETOOLONG/);
    refused(tar(symlink('l', 'x', { pax: [['linkpath', 'n'.repeat(4096)]] })), 'LIMIT_EXCEEDED', /ENAMETOOLONG/);
    refused(tar(symlink('l', '')), 'LAYER_CORRUPT', /ENOENT/);
  });

  it('of a megabyte do not make the message longer', () => {
    const { nothing } = attack(tar(file('f', '', { pax: [['path', `${'n/'.repeat(300_000)}f`]] })), { look: false });
    assert.ok((nothing.error?.message.length ?? 0) < 800, String(nothing.error));
    const key = `SCHILY.xattr.${'k'.repeat(200_000)}\0`;
    const { nothing: other } = attack(tar(file('f', '', { pax: [[key, '!']] })));
    assert.ok((other.error?.message.length ?? 0) < 800, String(other.error));
  });
});

describe('depth', () => {
  const deep = (depth: number, name = 'f'): string => `${'d/'.repeat(depth)}${name}`;

  it('of a thousand directories is accepted, and they can be replaced (CVE-2024-28863 of node-tar)', () => {
    contained(tar(file('x', '', { pax: [['path', deep(1000)]] }), file('d', 'flat')), ['d']);
  });

  it('beyond the maximum path is refused', () => {
    refused(tar(file('x', '', { pax: [['path', deep(2100)]] })), 'LIMIT_EXCEEDED', /ENAMETOOLONG/, { look: false });
  });

  it('beyond the maximum path is refused, also through symbolic links', () => {
    const target = deep(1900, 'd');
    const members = [
      file('x', '', { pax: [['path', `${target}/f`]] }),
      symlink('l', 'x', { pax: [['linkpath', target]] }),
      file('x', '', { pax: [['path', `l/${target}/f`]] }),
      symlink('x', 'x', {
        pax: [
          ['path', 'l/l'],
          ['linkpath', target],
        ],
      }),
      file('x', '', { pax: [['path', `l/l/${target}/f`]] }),
      file('d', 'flat'),
    ];
    for (const useOpenat2 of [true, false]) {
      using dir = scratch();
      const apply = () => applyTar(tar(...members), { root: dir.path }, { useOpenat2 });
      assert.throws(apply, /ENAMETOOLONG.*the whole path is too long/);
      // the tree can be removed with ordinary calls
      applyTar(tar(file('d', 'flat')), { root: dir.path }, { useOpenat2 });
      assert.deepEqual(paths(dir.path), ['d', 'l']);
    }
  });
});

describe('numbers of entries', () => {
  it('above the limit end the layer, whatever the entries are', () => {
    const limits = { entries: 100 };
    for (const make of [
      (i: number) => file(`f${i}`),
      () => directory('d'),
      () => file('.wh.x'),
      () => directory('./'),
      () => file('.wh..wh.plnk/x'),
    ]) {
      refused(tar(...Array.from({ length: 101 }, (_, i) => make(i))), 'LIMIT_EXCEEDED', /more than 100 entries/, {
        limits,
      });
    }
  });
});

describe('metadata', () => {
  const limits = { entryMetadataBytes: 10_000 };

  it('above the limit is refused before it is read (CVE-2022-2879 of Go)', () => {
    const gigabytes = { size: 8 * 2 ** 30 };
    for (const type of ['x', 'g', 'L', 'K']) {
      refused(headerBlock({ name: 'x', type, ...gigabytes }), 'LIMIT_EXCEEDED', /8589934592 bytes of metadata/, {
        limits,
      });
      refused(headerBlock({ name: 'x', type, size: 10_001 }), 'LIMIT_EXCEEDED', /10001 bytes of metadata/, { limits });
    }
  });

  it('of every size up to the limit is read', () => {
    for (const length of [0, 1, 494, 495, 496, 511, 512, 513, 1024, 9_000]) {
      const { tree } = attack(tar(file('f', 'x', { pax: [['comment', 'c'.repeat(length)]] })), { limits }).later;
      assert.equal(tree.f?.content, 'x', String(length));
    }
  });

  it('of a hundred thousand records is accepted or refused without delay', () => {
    const records = Array.from({ length: 100_000 }, (_, i) => [i.toString(36), ''] as const);
    const before = process.cpuUsage();
    contained(tar(paxHeader(records), file('f')), ['f'], { limits: { entryMetadataBytes: 2 << 20 } });
    const xattrs = Array.from({ length: 20_000 }, (_, i) => [`SCHILY.xattr.trusted.${i}`, 'x'] as const);
    contained(tar(paxHeader(xattrs), file('f')), ['f'], { limits: { entryMetadataBytes: 2 << 20 } });
    assert.ok(process.cpuUsage(before).user < 10_000_000);
  });

  it('headers without an entry are skipped one by one', () => {
    const many = Array.from({ length: 5000 }, () => paxHeader([['path', 'dead']]));
    contained(tar(...many, gnuLong('L', 'name'), file('x')), ['name']);
  });

  it('with a wrong length is refused', () => {
    const header = (text: string): Buffer => {
      const content = Buffer.alloc(512);
      content.write(text);
      return Buffer.concat([headerBlock({ name: 'x', type: 'x', size: text.length }), content]);
    };
    for (const text of [
      '99 path=x\n',
      '0 path=x\n',
      '-9 path=x\n',
      '9999999999999999999 path=x\n',
      '10 path=xx',
      ' 10 path=x\n',
    ]) {
      refused(tar(header(text), file('f')), 'LAYER_CORRUPT', /PAX header with a record/);
    }
    const half = paxRecord('path', 'x').subarray(0, -3).toString();
    refused(tar(header(half), file('f')), 'LAYER_CORRUPT', /PAX header with a record/);
  });
});

describe('two headers with different sizes', () => {
  it('give the size of the PAX header, so no entry hides in another’s content (CVE-2025-62518 of tokio-tar)', () => {
    const hidden = member(file('hidden', 'dead'));
    const size = String(hidden.length);
    contained(tar(file('outer', hidden, { size: 0, pax: [['size', size]] })), ['outer']);
  });

  it('do not change the size of headers between the PAX header and its entry (CVE-2026-53655 of node-tar)', () => {
    const hidden = member(file('hidden', 'dead'));
    const archive = tar(
      paxHeader([['size', String(hidden.length)]]),
      gnuLong('L', 'outer'),
      file('x', hidden, { size: 0 }),
    );
    contained(archive, ['outer']);
  });

  it('do not give a size to an entry without content', () => {
    contained(tar(directory('d', { pax: [['size', '5000']] }), file('f')), ['d', 'f']);
  });

  it('are refused if a size is negative or longer than the archive', () => {
    refused(tar(file('f', '', { size: -1n })), 'LAYER_CORRUPT', /negative size/);
    refused(tar(file('f', '', { pax: [['size', '-1']] })), 'LAYER_CORRUPT', /negative size/);
    refused(tar(file('f', '', { size: 2n ** 62n })), 'LIMIT_EXCEEDED', /more than any file system holds/);
    refused(tar(file('f', 'x', { size: 8 * 2 ** 30 })), 'LAYER_CORRUPT', /ends inside the content/);
  });
});

describe('sparse files', () => {
  const version10 = (map: string, more: { size?: number | bigint; real?: string } = {}) =>
    member({
      name: 'f',
      content: Buffer.from(map.padEnd(Math.ceil(map.length / 512) * 512, '\0')),
      ...(more.size === undefined ? {} : { size: more.size }),
      pax: [
        ['GNU.sparse.major', '1'],
        ['GNU.sparse.minor', '0'],
        ['GNU.sparse.realsize', more.real ?? '1'],
      ],
    });

  it('with maps of endless extents are refused at the limit (CVE-2025-58183 of Go)', () => {
    const limits = { entryMetadataBytes: 10_000 };
    const map = `1000000000\n${'0\n0\n'.repeat(10_000)}`;
    refused(version10(map, { size: 2n ** 40n }), 'LIMIT_EXCEEDED', /bytes of metadata/, { limits });
    refused(version10(`${'9'.repeat(18)}\n`), 'LAYER_CORRUPT', /last lines/);
    refused(version10('1'.repeat(1024)), 'LAYER_CORRUPT', /sparse map/);
  });

  it('with maps of endless blocks in the old format are refused at the limit (CVE-2026-32288 of Go)', () => {
    const first = headerBlock({
      name: 'f',
      type: 'S',
      format: 'gnu',
      patch: (block) => {
        block.write('00000000000\x0000000000000\0', 386, 'latin1');
        block[482] = 1;
      },
    });
    const more = Buffer.alloc(512);
    for (let i = 0; i < 21; i++) more.write('00000000000\x0000000000000\0', i * 24, 'latin1');
    more[504] = 1;
    const archive = Buffer.concat([first, ...Array.from({ length: 100 }, () => more)]);
    refused(archive, 'LIMIT_EXCEEDED', /bytes of metadata/, { limits: { entryMetadataBytes: 10_000 } });
  });

  it('with extents that overlap, go back, overflow or lie outside are refused', () => {
    for (const map of [
      '2\n0\n1\n0\n1\n',
      '2\n5\n1\n0\n1\n',
      '1\n9223372036854775807\n1\n',
      '1\n-1\n1\n',
      '1\n0\n-1\n',
      '1\n5\n0\n',
      'x\n',
    ]) {
      refused(tar(version10(map)), 'LAYER_CORRUPT', /sparse map/);
    }
    refused(tar(version10('0\n', { real: '-1' })), 'LAYER_CORRUPT', /negative size/);
    refused(tar(version10('0\n', { real: '9007199254740993' })), 'LIMIT_EXCEEDED', /more than any file system holds/);
  });

  const sized = (size: number) =>
    [
      ['GNU.sparse.size', String(size)],
      ['GNU.sparse.numblocks', '0'],
      ['GNU.sparse.major', '0'],
      ['GNU.sparse.minor', '1'],
    ] as const;

  it('of terabytes use no disk space', () => {
    using dir = scratch();
    applyTar(tar(file('f', '', { pax: sized(2 ** 42) })), { root: dir.path });
    assert.equal(statSync(join(dir.path, 'f')).size, 2 ** 42);
    assert.equal(statSync(join(dir.path, 'f')).blocks, 0);
  });

  // other file systems accept any length that a header can have
  it('above the limit of the file system are refused', { skip: unavailable(() => ext4()) }, () => {
    using disk = ext4();
    const huge = tar(file('g', '', { pax: sized(2 ** 53 - 1) }));
    assert.throws(() => applyTar(huge, { root: disk.path }), /"g".*(EFBIG|EINVAL)/);
  });
});
