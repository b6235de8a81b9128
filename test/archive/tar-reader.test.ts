import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { EntrySink, TarEntry } from '../../src/archive/entry.ts';
import { TarReader } from '../../src/archive/tar-reader.ts';
import { UnpackError } from '../../src/errors.ts';
import { LIMITS } from '../support/apply.ts';
import { lentNow } from '../support/lent.ts';
import {
  directory,
  file,
  gnuLong,
  hardlink,
  headerBlock,
  member,
  padded,
  paxHeader,
  symlink,
  tar,
} from '../support/tar.ts';

interface Read {
  readonly entry: TarEntry;
  readonly name: string;
  readonly content: Buffer;
  readonly ended: boolean;
}

/** Reads an archive in one piece and in pieces of various sizes. The results must be equal. */
function read(archive: Buffer, limits: Partial<typeof LIMITS> = {}): Read[] {
  const whole = readInPieces(archive, archive.length, limits);
  for (const cut of [1, 511, 513, 1000]) {
    assert.deepEqual(readInPieces(archive, cut, limits), whole, `cut into pieces of ${cut}`);
  }
  return whole;
}

function readInPieces(archive: Buffer, cut: number, limits: Partial<typeof LIMITS>): Read[] {
  const all: { entry: TarEntry; name: string; content: Buffer; ended: boolean }[] = [];
  const last = () => {
    const read = all.at(-1);
    assert.ok(read);
    return read;
  };
  const sink: EntrySink = {
    entry: (entry) => {
      all.push({ entry, name: entry.name.toString('latin1'), content: Buffer.alloc(entry.size), ended: false });
    },
    data: (bytes, position, offset) => {
      assert.ok(bytes.equals(archive.subarray(offset, offset + bytes.length)), `not the bytes at ${offset} of the tar`);
      bytes.copy(last().content, position);
    },
    end: () => {
      last().ended = true;
    },
  };
  const reader = new TarReader(sink, { ...LIMITS, ...limits });
  for (const piece of lentNow(archive, cut)) reader.write(piece);
  reader.finish();
  return all;
}

const only = (archive: Buffer): Read => {
  const [first, ...rest] = read(archive);
  assert.ok(first);
  assert.equal(rest.length, 0);
  return first;
};

const refuses = (archive: Buffer, code: string, text: RegExp) =>
  assert.throws(
    () => readInPieces(archive, archive.length, {}),
    (error) => {
      assert.ok(error instanceof UnpackError, String(error));
      assert.equal(error.code, code);
      assert.match(error.message, text);
      return true;
    },
  );

describe('tar headers', () => {
  it('give name, mode, owner, size and time of a file', () => {
    const { entry, content, ended } = only(
      tar(file('a/b', 'hello', { mode: 0o4755, uid: 1000, gid: 2000, mtime: 1_500_000_000 })),
    );
    assert.equal(entry.type, 'file');
    assert.equal(entry.mode, 0o4755);
    assert.equal(entry.uid, 1000);
    assert.equal(entry.gid, 2000);
    assert.equal(entry.size, 5);
    assert.deepEqual(entry.mtime, { seconds: 1_500_000_000, nanoseconds: 0 });
    assert.equal(content.toString(), 'hello');
    assert.ok(ended);
  });

  it('end every file, also an empty one', () => {
    assert.deepEqual(
      read(tar(file('empty'), file('full', 'x'.repeat(512)))).map(({ ended }) => ended),
      [true, true],
    );
  });

  it('are read in the formats v7, ustar and GNU', () => {
    for (const format of ['v7', 'ustar', 'gnu'] as const) {
      assert.equal(only(tar(file('name', 'x', { format }))).name, 'name');
    }
  });

  it('join the ustar prefix and the name', () => {
    const archive = tar(file('name', '', { patch: (block) => block.write('long/prefix', 345, 'latin1') }));
    assert.equal(only(archive).name, 'long/prefix/name');
  });

  it('give the access time of a GNU header', () => {
    const archive = tar(
      file('name', '', { format: 'gnu', mtime: 5, patch: (block) => block.write('00000000144\0', 345, 'latin1') }),
    );
    assert.deepEqual(only(archive).entry.atime, { seconds: 100, nanoseconds: 0 });
  });

  it('give the prefix that old versions of Go put into a GNU header', () => {
    const archive = tar(
      file('name', '', { format: 'gnu', patch: (block) => block.write('some/prefix', 345, 'latin1') }),
    );
    assert.equal(only(archive).name, 'some/prefix/name');
  });

  it('of type NUL mean a directory if the name ends with a slash', () => {
    assert.equal(only(tar({ name: 'old/', type: '\0' })).entry.type, 'directory');
    assert.equal(only(tar({ name: 'old', type: '\0' })).entry.type, 'file');
  });

  it('may have numbers in base 256, also negative ones', () => {
    const { entry } = only(tar(file('a', '', { uid: 3_000_000_000, mtime: -5n })));
    assert.equal(entry.uid, 3_000_000_000);
    assert.deepEqual(entry.mtime, { seconds: 0, nanoseconds: 0 });
  });

  it('give the low 32 bits of an owner, as the kernel does', () => {
    assert.equal(only(tar(file('a', '', { uid: 2 ** 32 + 7 }))).entry.uid, 7);
    assert.equal(only(tar(file('a', '', { uid: -1n }))).entry.uid, 0xffff_ffff);
  });

  it('are refused for a negative size, if the type may have content or is an old directory', () => {
    for (const type of ['0', '\0', 'x', 'g', 'L', 'K', 'S']) {
      refuses(tar({ name: 'a', type, size: -1n }), 'LAYER_CORRUPT', /negative size/);
    }
    refuses(tar({ name: 'd/', type: '\0', format: 'v7', size: -1n }), 'LAYER_CORRUPT', /negative size/);
    refuses(tar(file('a', '', { size: -1n, pax: [['size', '0']] })), 'LAYER_CORRUPT', /negative size/);
    for (const type of ['1', '2', '3', '4', '5', '6']) {
      assert.equal(read(tar({ name: 'a', type, linkName: 'b', size: -1n }, file('b'))).length, 2, type);
    }
    assert.equal(only(tar({ name: 'd/', type: '\0', format: 'v7', pax: [['size', '-1']] })).entry.type, 'directory');
  });

  it('may have a checksum of signed bytes', () => {
    const block = headerBlock(file(Buffer.from([0xe4]), ''));
    block.write('      ', 148, 'latin1');
    const signed = block.reduce((sum, byte, at) => sum + (at >= 148 && at < 156 ? 0x20 : (byte << 24) >> 24), 0);
    block.write(`${signed.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    assert.equal(only(tar(block)).name, '\xe4');
  });

  it('give names as bytes', () => {
    const name = Buffer.from([0x61, 0xff, 0xfe, 0x0a]);
    assert.deepEqual(only(tar(file(name))).entry.name, name);
  });

  it('give no content to links and directories, whatever their size field', () => {
    const reads = read(
      tar({ ...directory('d'), size: 0 }, symlink('s', 't'), { ...hardlink('h', 'f'), size: 99 }, file('f', 'x')),
    );
    assert.deepEqual(
      reads.map(({ name }) => name),
      ['d', 's', 'h', 'f'],
    );
  });
});

describe('PAX headers', () => {
  it('replace names, sizes, owners and times, to the nanosecond', () => {
    const { entry, name, content } = only(
      tar(
        file('short', 'hello', {
          size: 0,
          pax: [
            ['path', 'a/much/longer'],
            ['size', '5'],
            ['uid', '5000000'],
            ['gid', '6000000'],
            ['mtime', '1700000000.123456789123'],
            ['atime', '1800000000.5'],
          ],
        }),
      ),
    );
    assert.equal(name, 'a/much/longer');
    assert.equal(content.toString(), 'hello');
    assert.equal(entry.uid, 5_000_000);
    assert.equal(entry.gid, 6_000_000);
    assert.deepEqual(entry.mtime, { seconds: 1_700_000_000, nanoseconds: 123_456_789 });
    assert.deepEqual(entry.atime, { seconds: 1_800_000_000, nanoseconds: 500_000_000 });
  });

  it('count for one entry only', () => {
    const [first, second] = read(tar(file('a', '', { pax: [['path', 'long']] }), file('b')));
    assert.equal(first?.name, 'long');
    assert.equal(second?.name, 'b');
  });

  it('hold bytes: newlines, NULs and what is not UTF-8', () => {
    const value = Buffer.from([0, 0x0a, 0xff, 0x3d, 0]);
    const { entry } = only(tar(file('a', '', { pax: [['SCHILY.xattr.security.capability', value]] })));
    assert.deepEqual(entry.xattrs?.get('security.capability'), value);
  });

  it('may have attributes in libarchive’s form, which count if the plain form is missing', () => {
    const { entry } = only(
      tar(
        file('a', '', {
          pax: [
            ['LIBARCHIVE.xattr.user.a%20b', 'aGk'],
            ['LIBARCHIVE.xattr.user.both', 'bm8='],
            ['SCHILY.xattr.user.both', 'yes'],
          ],
        }),
      ),
    );
    assert.equal(entry.xattrs?.get('user.a b')?.toString(), 'hi');
    assert.equal(entry.xattrs?.get('user.both')?.toString(), 'yes');
    assert.deepEqual([...(entry.libarchiveOnly ?? [])], ['user.a b']);
  });

  it('with malformed attributes in libarchive’s form are accepted, because containerd does not read these', () => {
    const pax = [
      ['LIBARCHIVE.xattr.user.a', '!!'],
      ['LIBARCHIVE.xattr.user.b%00c', 'eQ'],
    ] as const;
    assert.equal(only(tar(file('a', '', { pax }))).entry.xattrs, undefined);
  });

  it('may have empty values of attributes, in both forms', () => {
    const { entry } = only(
      tar(
        file('f', '', {
          pax: [
            ['SCHILY.xattr.user.a', ''],
            ['LIBARCHIVE.xattr.user.b', ''],
            ['LIBARCHIVE.xattr.', ''],
          ],
        }),
      ),
    );
    assert.deepEqual(
      [...(entry.xattrs ?? [])],
      [
        ['user.a', Buffer.alloc(0)],
        ['user.b', Buffer.alloc(0)],
      ],
    );
  });

  it('do not change a field if their value is empty', () => {
    assert.equal(only(tar(file('kept', '', { pax: [['path', '']] }))).name, 'kept');
  });

  it('are ignored if they are global', () => {
    const archive = tar(
      paxHeader(
        [
          ['path', 'global'],
          ['mtime', '1'],
        ],
        'g',
      ),
      file('a', ''),
    );
    const { name, entry } = only(archive);
    assert.equal(name, 'a');
    assert.equal(entry.mtime.seconds, 1_600_000_000);
  });

  it('limit times to those that a file can have', () => {
    for (const [text, seconds, nanoseconds] of [
      ['-1.5', 0, 0],
      ['99999999999', 0, 0],
      ['9223372036.854775807', 9_223_372_036, 854_775_807],
      ['9223372036.854775808', 0, 0],
    ] as const) {
      const { entry } = only(tar(file('a', '', { pax: [['mtime', text]] })));
      assert.deepEqual(entry.mtime, { seconds, nanoseconds }, text);
    }
  });

  it('are refused if they are malformed', () => {
    const broken: [string, RegExp][] = [
      ['12 path', /not valid: "12"|newline/],
      ['abc path=x\n', /not valid: "abc"/],
      ['9 path=xy', /newline/],
      ['8 pathx\n', /"="/],
      [' path=x\n', /without a length/],
      ['5 =x\n', /without a key/],
    ];
    for (const [text, expected] of broken) {
      const block = headerBlock({ name: 'p', type: 'x', size: text.length });
      refuses(tar(Buffer.concat([block, padded(Buffer.from(text))]), file('a')), 'LAYER_CORRUPT', expected);
    }
    refuses(tar(file('a', '', { pax: [['path', 'a\0b']] })), 'LAYER_CORRUPT', /NUL/);
    refuses(tar(file('a', '', { pax: [['mtime', 'noon']] })), 'LAYER_CORRUPT', /malformed mtime/);
    refuses(tar(file('a', '', { pax: [['size', '-4']] })), 'LAYER_CORRUPT', /negative size/);
    for (const number of ['', ' 5', '5 ', '1_0', '+-5', '-', '0x5', '9223372036854775808', '-9223372036854775809']) {
      const archive = tar(
        file('a', '', {
          pax: [
            ['uid', number],
            ['gid', ''],
          ],
        }),
      );
      if (number !== '') refuses(archive, 'LAYER_CORRUPT', /malformed uid/);
    }
  });

  it('may have leading zeros in numbers and record lengths', () => {
    const text = `${'0'.repeat(58)}68 uid=77\n`;
    const record = Buffer.concat([headerBlock({ name: 'p', type: 'x', size: text.length }), padded(Buffer.from(text))]);
    assert.equal(only(tar(record, file('a'))).entry.uid, 77);
    const { entry, content } = only(
      tar(
        file('a', 'abc', {
          size: 0,
          pax: [
            ['size', `${'0'.repeat(59)}3`],
            ['uid', `+${'0'.repeat(100)}5`],
            ['mtime', `${'0'.repeat(70)}7.5`],
          ],
        }),
      ),
    );
    assert.equal(content.toString(), 'abc');
    assert.equal(entry.uid, 5);
    assert.deepEqual(entry.mtime, { seconds: 7, nanoseconds: 500_000_000 });
  });
});

describe('GNU headers', () => {
  it('give long names and link targets', () => {
    const name = `${'n'.repeat(300)}/x`;
    const archive = tar(gnuLong('L', name), gnuLong('K', 'k'.repeat(200)), symlink('n', 'k', { format: 'gnu' }));
    const { entry } = only(archive);
    assert.equal(entry.name.toString(), name);
    assert.equal(entry.linkName.toString(), 'k'.repeat(200));
  });

  it('describe sparse files in the old format, with extension blocks', () => {
    const extents = Array.from({ length: 30 }, (_, i) => [i * 1000, 1] as const);
    const slot = (block: Buffer, at: number, value: number) =>
      block.write(`${value.toString(8).padStart(11, '0')}\0`, at, 'latin1');
    const header = headerBlock({
      name: 'sparse',
      type: 'S',
      format: 'gnu',
      size: 30,
      patch: (block) => {
        extents.slice(0, 4).forEach(([offset, length], i) => {
          slot(block, 386 + 24 * i, offset);
          slot(block, 398 + 24 * i, length);
        });
        block[482] = 1;
        slot(block, 483, 30_000);
      },
    });
    const extensions = [extents.slice(4, 25), extents.slice(25)].map((part, index) => {
      const block = Buffer.alloc(512);
      part.forEach(([offset, length], i) => {
        slot(block, 24 * i, offset);
        slot(block, 24 * i + 12, length);
      });
      block[504] = index === 0 ? 1 : 0;
      return block;
    });
    const { content, entry } = only(tar(Buffer.concat([header, ...extensions, padded(Buffer.alloc(30, 'x'))])));
    const expected = Buffer.alloc(30_000);
    for (const [offset] of extents) expected[offset] = 0x78;
    assert.ok(entry.sparse);
    assert.deepEqual(content, expected);
  });

  for (const [version, records, map] of [
    [
      '0.0',
      [
        ['GNU.sparse.size', '20'],
        ['GNU.sparse.numblocks', '2'],
        ['GNU.sparse.offset', '2'],
        ['GNU.sparse.numbytes', '3'],
        ['GNU.sparse.offset', '10'],
        ['GNU.sparse.numbytes', '1'],
      ],
      '',
    ],
    [
      '0.1',
      [
        ['GNU.sparse.size', '20'],
        ['GNU.sparse.numblocks', '2'],
        ['GNU.sparse.name', 'real'],
        ['GNU.sparse.map', '2,3,10,1'],
      ],
      '',
    ],
    [
      '1.0',
      [
        ['GNU.sparse.major', '1'],
        ['GNU.sparse.minor', '0'],
        ['GNU.sparse.name', 'real'],
        ['GNU.sparse.realsize', '20'],
      ],
      '2\n2\n3\n10\n1\n',
    ],
  ] as const) {
    it(`describe sparse files in PAX format ${version}`, () => {
      const data = Buffer.concat([map === '' ? Buffer.alloc(0) : padded(Buffer.from(map)), Buffer.from('abcd')]);
      const { content, name, entry } = only(tar(file('real', data, { pax: records })));
      assert.equal(name, 'real');
      assert.equal(entry.size, 20);
      assert.equal(content.toString('latin1'), '\0\0abc\0\0\0\0\0d\0\0\0\0\0\0\0\0\0');
    });
  }

  it('are refused if a sparse map does not fit its file or its data', () => {
    const sparse = (map: string, size = '20') =>
      tar(
        file('f', 'abcd', {
          pax: [
            ['GNU.sparse.size', size],
            ['GNU.sparse.numblocks', String(map.split(',').length / 2)],
            ['GNU.sparse.map', map],
          ],
        }),
      );
    refuses(sparse('2,3,1,1'), 'LAYER_CORRUPT', /outside of its file/);
    refuses(sparse('18,4'), 'LAYER_CORRUPT', /outside of its file/);
    refuses(sparse('2,3'), 'LAYER_CORRUPT', /3 bytes over 4/);
    refuses(sparse('2,9'), 'LAYER_CORRUPT', /9 bytes over 4/);
    refuses(sparse('-2,4'), 'LAYER_CORRUPT', /malformed sparse map/);
  });
});

describe('the end of an archive', () => {
  it('is two blocks of zeros, and later bytes are ignored', () => {
    assert.equal(read(Buffer.concat([tar(file('a')), member(file('after'))])).length, 1);
  });

  it('may be missing, completely or by half', () => {
    assert.equal(read(member(file('a', 'x'))).length, 1);
    assert.equal(read(Buffer.concat([member(file('a', 'x')), Buffer.alloc(512)])).length, 1);
    assert.equal(read(Buffer.alloc(0)).length, 0);
  });

  it('may be missing together with padding of the last file', () => {
    assert.equal(read(member(file('a', 'x')).subarray(0, 513)).length, 1);
  });

  it('is an error inside a header or inside content', () => {
    const archive = member(file('a', 'x'.repeat(600)));
    refuses(archive.subarray(0, 100), 'LAYER_CORRUPT', /inside a header/);
    refuses(archive.subarray(0, 1000), 'LAYER_CORRUPT', /inside the content/);
  });

  it('is an error if a header follows one block of zeros', () => {
    refuses(Buffer.concat([Buffer.alloc(512), tar(file('a'))]), 'LAYER_CORRUPT', /block of zeros/);
  });
});

describe('the reader refuses', () => {
  it('a wrong checksum, with the offset', () => {
    const archive = tar(file('a', 'x'), file('b'));
    archive[1024] = 0x63;
    refuses(archive, 'LAYER_CORRUPT', /byte 1024 of the tar: a header with a wrong checksum/);
  });

  it('an unknown entry type, with the name', () => {
    refuses(tar({ name: 'odd', type: 'Z' }), 'LAYER_CORRUPT', /"odd".*unknown type "Z"/);
  });

  it('malformed numbers', () => {
    refuses(
      tar(file('a', '', { patch: (block) => block.write('99999999', 108, 'latin1') })),
      'LAYER_CORRUPT',
      /malformed number/,
    );
  });

  it('more entries or metadata than the limits allow', () => {
    assert.throws(() => readInPieces(tar(file('a'), file('b')), 4096, { entries: 1 }), { code: 'LIMIT_EXCEEDED' });
    const long = tar(file('a', '', { pax: [['comment', 'x'.repeat(5000)]] }));
    assert.throws(() => readInPieces(long, 4096, { entryMetadataBytes: 1000 }), { code: 'LIMIT_EXCEEDED' });
  });
});
