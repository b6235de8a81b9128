import { isSince } from '../containerd/daemon.ts';
import {
  device,
  directory,
  fifo,
  file,
  gnuLong,
  hardlink,
  headerBlock,
  member,
  opaque,
  padded,
  paxHeader,
  symlink,
  tar,
  whiteout,
} from '../support/tar.ts';
import { bothAgree, bothRefuse, onlyContainerdRefuses, onlyUnpackdRefuses, started } from './agreement.ts';

const suite = await started();

const records = (text: string): Buffer =>
  Buffer.concat([headerBlock({ name: 'p', type: 'x', size: text.length }), padded(Buffer.from(text))]);
const pax = (text: string): Buffer => Buffer.concat([records(text), tar(file('a'))]);
const sparse = (map: string, size = '20'): Buffer =>
  tar(
    file('f', 'abcd', {
      pax: [
        ['GNU.sparse.size', size],
        ['GNU.sparse.numblocks', String(map.split(',').length / 2)],
        ['GNU.sparse.map', map],
      ],
    }),
  );
const broken = (archive: Buffer, at: number, byte: number): Buffer => {
  archive[at] = byte;
  return archive;
};

bothRefuse(suite, 'malformed archives', {
  'a wrong checksum': [broken(tar(file('a', 'x'), file('b')), 1024, 0x63)],
  'an archive that ends inside a header': [member(file('a', 'x'.repeat(600))).subarray(0, 100)],
  'an archive that ends inside content': [member(file('a', 'x'.repeat(600))).subarray(0, 1000)],
  'bytes that are no archive': [Buffer.from('not an archive at all, but longer than a block. '.repeat(30))],
  'a header after one block of zeros': [Buffer.concat([Buffer.alloc(512), tar(file('a'))])],
  'an unknown type': [tar({ name: 'odd', type: 'Z' })],
  'a volume header': [tar({ name: 'label', type: 'V' })],
  'a malformed number': [tar(file('a', '', { patch: (block) => block.write('99999999', 108, 'latin1') }))],
  'a size of more than 63 bits': [tar(file('a', '', { patch: (block) => block.fill(0xbf, 124, 136) }))],
  'a negative size': [tar(file('a', '', { size: -5n }))],
  'a PAX record without a length': [pax(' path=x\n')],
  'a PAX record that is too long': [pax('12 path')],
  'a PAX record without an equals sign': [pax('8 pathx\n')],
  'a PAX record without a key': [pax('5 =x\n')],
  'a global PAX header with a record without a key': [Buffer.concat([paxHeader([['', 'x']], 'g'), tar(file('a'))])],
  'a negative size of an old directory': [tar({ name: 'd/', type: '\0', format: 'v7', size: -1n })],
  'a negative size that a PAX header replaces': [tar(file('a', '', { size: -1n, pax: [['size', '0']] }))],
  'a negative size of an unknown type': [tar({ name: 'a', type: 'Z', size: -1n })],
  'a PAX number with a space': [tar(file('a', '', { pax: [['uid', ' 5']] }))],
  'a PAX number with an underscore': [tar(file('a', '', { pax: [['uid', '1_0']] }))],
  'a PAX number of more than 64 bits': [tar(file('a', '', { pax: [['uid', '9223372036854775808']] }))],
  'a PAX number with two signs': [tar(file('a', '', { pax: [['uid', '+-5']] }))],
  'an octal number with a sign': [tar(file('a', '', { patch: (block) => block.write('+000005\0', 108, 'latin1') }))],
  'a base-256 number of more than 64 bits': [
    tar(file('a', '', { patch: (block) => block.fill('80ff', 124, 136, 'hex') })),
  ],
  'an extended attribute without a name': [tar(file('a', '', { pax: [['SCHILY.xattr.', 'x']] }))],
  'an extended attribute without a name or a value': [tar(directory('a', { pax: [['SCHILY.xattr.', '']] }))],
  'a PAX record that ends in the middle': [pax('9 path=xy')],
  'a malformed PAX length': [pax('abc path=x\n')],
  'a NUL in a PAX path': [tar(file('a', '', { pax: [['path', 'a\0b']] }))],
  'a malformed PAX time': [tar(file('a', '', { pax: [['mtime', 'noon']] }))],
  'a malformed PAX owner': [tar(file('a', '', { pax: [['uid', 'root']] }))],
  'a negative PAX size': [tar(file('a', '', { pax: [['size', '-4']] }))],
  'a sparse map out of order': [sparse('2,3,1,1')],
  'a sparse map past the end': [sparse('18,4')],
  'a sparse map with more data than the entry has': [sparse('2,9')],
  'a sparse map of negative numbers': [sparse('-2,4')],
});

bothRefuse(suite, 'entries that can’t be', {
  'a whiteout of an empty name': [tar(file('d/.wh.'))],
  'a whiteout of “.”': [tar(file('d/.wh..'))],
  'a whiteout of “..”': [tar(file('d/.wh...'))],
  'a file used as a directory': [tar(file('a'), file('a/b'))],
  'a device used as a directory': [tar(device('a', 'c', 1, 3), file('a/b'))],
  'a device 0:0 used as a directory': [tar(file('x')), tar(device('a', 'c', 0, 0), file('a/b'))],
  'a hard link to a whiteout used as a directory': [
    tar(file('a')),
    tar(whiteout('a'), hardlink('l', 'a'), file('l/b')),
  ],
  'a link to a file used as a directory': [tar(file('a'), symlink('l', 'a'), file('l/b'))],
  'a link to itself used as a directory': [tar(symlink('l', 'l'), file('l/b'))],
  'links in a loop used as directories': [tar(symlink('a', 'b'), symlink('b', 'a'), file('a/c'))],
  'a hard link to a missing file': [tar(hardlink('a', 'missing'))],
  'a hard link to a directory': [tar(directory('d'), hardlink('a', 'd'))],
  'a hard link to the root': [tar(hardlink('a', '/'))],
  'a hard link outside': [tar(hardlink('a', '../../../../etc/hostname'))],
  'a hard link through a link to outside': [tar(symlink('l', '/etc'), hardlink('a', 'l/hostname'))],
  'a name of 256 bytes': [tar(file('', '', { pax: [['path', 'x'.repeat(256)]] }))],
  'an extended attribute of an unknown namespace': [tar(file('a', '', { pax: [['SCHILY.xattr.security.', 'x']] }))],
  'a malformed file capability': [tar(file('a', '', { pax: [['SCHILY.xattr.security.capability', 'nonsense']] }))],
  'a symbolic link with an empty target': [tar(symlink('a', ''))],
});

bothAgree(suite, 'odd archives that both take', {
  'without the end blocks': [member(file('a', 'x'))],
  'with one end block': [Buffer.concat([member(file('a', 'x')), Buffer.alloc(512)])],
  'with entries after the end blocks': [Buffer.concat([tar(file('a')), member(file('after'))])],
  'without the last padding': [member(file('a', 'x')).subarray(0, 513)],
  'without bytes': [Buffer.alloc(0)],
  'with headers of v7, GNU and ustar in turn': [
    tar(file('a', '1', { format: 'v7' }), file('b', '2', { format: 'gnu' }), file('c', '3'), {
      name: 'd/',
      type: '\0',
      format: 'v7',
    }),
  ],
  'with long names and links': [
    tar(gnuLong('L', `${'n'.repeat(200)}/x`), gnuLong('K', 'k'.repeat(300)), symlink('n', 'k', { format: 'gnu' })),
  ],
  'with a name in a PAX header and a longer one in a GNU header': [
    tar(paxHeader([['path', 'from-pax']]), gnuLong('L', 'from-gnu'), file('x', '', { format: 'gnu' })),
    tar(gnuLong('L', 'from-gnu'), paxHeader([['path', 'from-pax']]), file('x', '', { format: 'gnu' })),
  ],
  'with a prefix': [tar(file('name', '', { patch: (block) => block.write('long/prefix', 345, 'latin1') }))],
  'with an access time in a GNU header': [
    tar(file('a', '', { format: 'gnu', mtime: 5, patch: (block) => block.write('00000000144\0', 345, 'latin1') })),
  ],
  'with contiguous files': [tar({ name: 'a', type: '7', content: '' })],
  'with content on links and directories': [
    tar({ ...directory('d'), size: 0 }, { ...hardlink('h', 'f'), type: '2', linkName: 't', size: 99 }, file('f', 'x')),
  ],
  'with an ACL of an unknown version, which is left out': [
    tar(file('a', '', { pax: [['SCHILY.xattr.system.posix_acl_access', 'nonsense']] })),
  ],
  'with base-256 numbers': [tar(file('a', '', { uid: 3_000_000_000, mtime: 2n ** 33n }))],
  'with empty PAX values': [
    tar(
      file('kept', '', {
        pax: [
          ['path', ''],
          ['mtime', ''],
          ['uid', ''],
        ],
      }),
    ),
  ],
  'with negative sizes of entries without content': [
    tar(
      file('f', 'x'),
      directory('d', { size: -1n }),
      symlink('l', 'f', { size: -7n }),
      hardlink('h', 'f', { size: -1n }),
      device('c', 'c', 1, 3, { size: -1n }),
      device('b', 'b', 1, 3, { size: -1n }),
      fifo('p', { size: -(2n ** 63n) }),
      directory('e', { pax: [['size', '-1']] }),
      { name: 'old/', type: '\0', format: 'v7', pax: [['size', '-1']] },
      { name: 'full/', type: '\0', format: 'v7', size: 600 },
      file('after', 'y'),
    ),
  ],
  'with decimals and record lengths of sixty digits': [
    tar(
      file('a', 'abc', { size: 0, pax: [['size', `${'0'.repeat(59)}3`]] }),
      file('b', '', {
        pax: [
          ['uid', `+${'0'.repeat(70)}12`],
          ['gid', '-1'],
          ['mtime', `${'0'.repeat(60)}5.5`],
        ],
      }),
      records(`${'0'.repeat(58)}68 uid=77\n`),
      file('c'),
    ),
  ],
  'with empty extended attributes': [
    tar(
      file('f', 'x', {
        pax: [
          ['SCHILY.xattr.user.empty', ''],
          ['SCHILY.xattr.security.empty', ''],
        ],
      }),
      directory('d', {
        pax: [
          ['SCHILY.xattr.user.empty', ''],
          ['SCHILY.xattr.trusted.empty', ''],
        ],
      }),
      symlink('l', 'f', {
        pax: [
          ['SCHILY.xattr.user.empty', ''],
          ['SCHILY.xattr.security.empty', ''],
        ],
      }),
      hardlink('h', 'f', { pax: [['SCHILY.xattr.user.other', '']] }),
      fifo('p', { pax: [['SCHILY.xattr.user.empty', '']] }),
      file('acl', '', { pax: [['SCHILY.xattr.system.posix_acl_access', '']] }),
    ),
    tar(
      directory('d', {
        pax: [
          ['SCHILY.xattr.user.empty', 'full'],
          ['SCHILY.xattr.user.new', ''],
        ],
      }),
    ),
  ],
  'with a sparse map that begins with a number longer than a block, and an empty size next to a real one': [
    tar(
      file('s', Buffer.concat([padded(Buffer.from(`${'0'.repeat(700)}1\n2\n3\n`)), Buffer.from('abc')]), {
        pax: [
          ['GNU.sparse.major', '1'],
          ['GNU.sparse.minor', '0'],
          ['GNU.sparse.size', ''],
          ['GNU.sparse.realsize', '20'],
        ],
      }),
    ),
  ],
  'with a name that ends with a slash because of a sparse header': [
    tar({
      name: 's',
      type: '\0',
      content: 'abc',
      pax: [
        ['GNU.sparse.map', '0,3'],
        ['GNU.sparse.numblocks', '1'],
        ['GNU.sparse.name', 'd/'],
        ['GNU.sparse.size', '3'],
      ],
    }),
  ],
  'with PAX numbers of many digits': [
    tar(
      file('a', '', {
        pax: [
          ['mtime', '1700000000.12345678999999'],
          ['uid', '0005'],
        ],
      }),
    ),
  ],
  'with a sparse file in each PAX format': [
    sparse('2,3,10,1'),
    tar(
      file('s', Buffer.concat([padded(Buffer.from('2\n2\n3\n10\n1\n')), Buffer.from('abcd')]), {
        pax: [
          ['GNU.sparse.major', '1'],
          ['GNU.sparse.minor', '0'],
          ['GNU.sparse.name', 'real'],
          ['GNU.sparse.realsize', '20'],
        ],
      }),
    ),
  ],
  'with names that lead out of the root': [
    tar(file('../../etc/x', '1'), file('/../y', '2'), symlink('up', '../../..'), file('up/z', '3')),
  ],
  'with links that are replaced between entries': [
    tar(
      directory('a'),
      symlink('l', 'a'),
      file('l/x', '1'),
      symlink('l', '/b'),
      file('l/x', '2'),
      directory('l'),
      file('l/x', '3'),
    ),
  ],
});

onlyContainerdRefuses(suite, {
  'a whiteout after an entry of the same name: it hides only what is below': {
    image: [tar(file('a')), tar(file('a', 'mine'), whiteout('a'))],
    equivalent: [tar(file('a')), tar(file('a', 'mine'))],
    stores: ['overlay'],
  },
  'a whiteout twice': {
    image: [tar(file('a')), tar(whiteout('a'), whiteout('a'))],
    equivalent: [tar(file('a')), tar(whiteout('a'))],
    stores: ['overlay'],
  },
  'a directory that holds only whiteouts, deleted by the same layer in any order: it is removed': {
    image: [
      tar(directory('d', { uid: 5 }), directory('d/e'), file('d/e/g'), directory('c'), directory('b')),
      tar(whiteout('d/e/g'), whiteout('d/e'), whiteout('c'), whiteout('c/x'), whiteout('b/x/y/z'), opaque('b/x')),
      tar(opaque('b/x'), whiteout('b'), whiteout('d'), whiteout('d/e/x/y')),
    ],
    equivalent: [
      tar(directory('d', { uid: 5 }), directory('d/e'), file('d/e/g'), directory('c'), directory('b')),
      tar(whiteout('d/e'), whiteout('c'), whiteout('b/x/y/z'), opaque('b/x')),
      tar(whiteout('b'), whiteout('d')),
    ],
    stores: ['overlay'],
  },
  'an old-GNU sparse file, type S': {
    image: [tar(oldSparse())],
    equivalent: [
      tar(file('sparse', Buffer.concat([Buffer.from('ab'), Buffer.alloc(998), Buffer.from('cd')]), { format: 'gnu' })),
    ],
  },
  'an implied directory whose parent directory was deleted by the layer below': {
    image: [tar(directory('d'), directory('d/e', { uid: 5 })), tar(whiteout('d')), tar(file('d/e/new', 'x'))],
    equivalent: [
      tar(directory('d'), directory('d/e', { uid: 5 })),
      tar(whiteout('d')),
      tar(directory('d', { mtime: NOW() }), directory('d/e', { mtime: NOW() }), file('d/e/new', 'x')),
    ],
    stores: ['overlay'],
  },
  'a directory that a dangling link replaces': {
    image: [tar(directory('a', { mtime: 5 }), symlink('a', 'nowhere', { mtime: 6 }))],
    equivalent: [tar(symlink('a', 'nowhere', { mtime: 6 }))],
  },
  'a whiteout of a directory that the same layer has named before': {
    image: [tar(file('d/f')), tar(directory('d', { mtime: 7 }), file('d/new'), whiteout('d'))],
    equivalent: [tar(file('d/f')), tar(whiteout('d'), directory('d', { mtime: 7 }), file('d/new'))],
    stores: ['native'],
  },
  'a directory inside a directory that a file replaces': {
    image: [tar(directory('a'), directory('a/b'), file('a', 'x', { mtime: 1_600_000_000 }))],
    equivalent: [tar(file('a', 'x'))],
  },
});

// pkg/archive/tar_unix.go: containerd cuts the numbers to 32 bits up to 2.3, and refuses them since 2.4
const DEVICE_NUMBERS = {
  'a negative device number': [tar(device('a', 'c', -1, 0))],
  'a device number of more than 32 bits': [tar(device('a', 'b', 1, 2 ** 32))],
};
if (suite.skip === false && isSince(suite.suite.containerd.version, '2.4')) {
  bothRefuse(suite, 'device numbers, since containerd 2.4', DEVICE_NUMBERS);
} else {
  onlyUnpackdRefuses(suite, 'device numbers, up to containerd 2.3', DEVICE_NUMBERS);
}

function NOW(): number {
  return Math.ceil(Date.now() / 1000);
}

/** `ab`, a hole, `cd` at 1000. */
function oldSparse(): Buffer {
  const header = headerBlock({
    name: 'sparse',
    type: 'S',
    format: 'gnu',
    size: 4,
    patch: (block) => {
      const slot = (at: number, value: number) => block.write(`${value.toString(8).padStart(11, '0')}\0`, at, 'latin1');
      [0, 2, 1000, 2].forEach((value, index) => {
        slot(386 + 12 * index, value);
      });
      slot(483, 1002);
    },
  });
  return Buffer.concat([header, padded(Buffer.from('abcd'))]);
}
