import { device, directory, fifo, file, hardlink, opaque, symlink, tar, whiteout } from '../support/tar.ts';
import { bothAgree, started } from './agreement.ts';

const suite = await started();

const xattr = (name: string, value: string | Buffer) => [`SCHILY.xattr.${name}`, value] as const;
/** `cap_net_raw+ep`, as the kernel keeps it (capabilities(7)). */
const CAPABILITY = Buffer.from([1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
const ACL = Buffer.from(
  '0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000400ffffffff',
  'hex',
);

const BASE = tar(
  directory('d', { mtime: 1_000, mode: 0o1777, uid: 5, gid: 6 }),
  directory('d/e', { mtime: 2_000, mode: 0o2750, gid: 7, pax: [xattr('user.below', 'kept')] }),
  file('d/e/f', 'below', { mtime: 3_000 }),
  file('d/g', 'one', { mtime: 4_000 }),
  hardlink('d/h', 'd/g', { mtime: 4_000 }),
  symlink('l', 'd/e', { mtime: 5_000 }),
  symlink('absolute', '/d/e'),
  file('z', 'z'),
  directory('empty', { mtime: 6_000 }),
);

bothAgree(suite, 'entries', {
  'make directories, files, links and devices': [
    tar(
      directory('dir', { mode: 0o750, uid: 1, gid: 2, mtime: 1 }),
      file('dir/file', 'content', { mode: 0o640, uid: 3, gid: 4, mtime: 2 }),
      symlink('dir/link', '../no/such', { uid: 5, gid: 6, mtime: 3 }),
      symlink('dir/long', 'x'.repeat(100)),
      hardlink('dir/second', 'dir/file', { mode: 0o640, uid: 3, gid: 4, mtime: 2 }),
      device('null', 'c', 1, 3, { mode: 0o666, uid: 7, mtime: 4 }),
      device('disk', 'b', 259, 70_000, { mode: 0o660, gid: 8, mtime: 5 }),
      fifo('pipe', { mode: 0o622, mtime: 6 }),
    ),
  ],
  'do not change the root directory': [
    tar(directory('./', { mode: 0o700, uid: 9, mtime: 1 }), directory('/', { mode: 0 }), file('a')),
  ],
  'are written to their cleaned paths': [
    tar(
      directory('a'),
      file('./a//b', '1'),
      file('/a/c', '2'),
      file('a/./d', '3'),
      file('a/x/../e', '4'),
      file('../../f', '5'),
      directory('a/g//', { mtime: 9 }),
      file('file/', 'a slash on a file'),
    ),
  ],
  'may have any bytes in their names': [
    tar(
      file(Buffer.from([0xff, 0xfe, 0x0a, 0x20]), 'not UTF-8'),
      file('new\nline'),
      file('back\\slash"quote'),
      file('ünïcödé'),
      file('n'.repeat(100)),
      file('long', '', { pax: [['path', `${'p'.repeat(255)}/${'q'.repeat(255)}`]] }),
      directory(' '),
      file('...'),
    ),
  ],
  'replace files of earlier entries of the layer': [
    tar(
      file('a', 'first'),
      file('a', 'second', { mtime: 7 }),
      symlink('b', 'a'),
      file('b', 'no longer a link'),
      file('c', 'file'),
      directory('c', { mtime: 8 }),
      file('c/inside'),
      fifo('e'),
      symlink('e', 'a'),
      file('f', 'a link to it stays'),
      hardlink('g', 'f'),
      file('f', 'another file'),
    ),
  ],
  'merge a directory with an existing one': [
    tar(
      directory('a', { mtime: 1 }),
      file('a/b', '1'),
      directory('a', { mode: 0o700, uid: 3, mtime: 2 }),
      file('a/c', '2'),
    ),
  ],
  'replace a directory and its content by a file or a link, which gets the directory’s times': [
    tar(
      directory('a', { mtime: 50 }),
      file('a/b'),
      file('a', 'a file now', { mtime: 60 }),
      directory('t', { mtime: 70 }),
      directory('s', { mtime: 80 }),
      file('s/x'),
      symlink('s', 't', { mtime: 90 }),
      file('u', 'target', { mtime: 1 }),
      directory('v', { mtime: 2 }),
      symlink('v', 'u'),
      directory('w/x', { mtime: 3 }),
      symlink('w/x', '../deep/../v'),
      directory('deep', { mtime: 4 }),
    ),
  ],
  'name a directory through a link that leads elsewhere later': [
    tar(directory('a/d', { mtime: 1 }), symlink('l', 'a')),
    tar(symlink('l', 'a'), directory('l/d', { mtime: 5 }), directory('l', { mtime: 6 }), file('l/d/x')),
    tar(symlink('m', 'a'), directory('m/d', { mtime: 5 }), directory('m', { mtime: 6 }), file('m/d/x'), file('a/d/y')),
    tar(file('a/d/z'), symlink('n', 'a'), directory('n/d', { mtime: 5 }), directory('n', { mtime: 6 }), file('n/d/x')),
  ],
  'follow symbolic links of the layer': [
    tar(
      directory('real', { mtime: 10 }),
      symlink('relative', 'real'),
      symlink('rooted', '/real'),
      symlink('real/up', '../../../real'),
      symlink('chain', 'relative'),
      file('relative/a', '1'),
      file('rooted/b', '2'),
      file('real/up/c', '3'),
      file('chain/d', '4'),
      directory('chain/e', { mtime: 11 }),
      symlink('dangling', 'made/by/need'),
      file('dangling/f', '5'),
    ),
  ],
  'with `..` after a link go up from the link’s target, in an absolute link and in the target of a hard link': [
    tar(
      directory('a/b', { mtime: 1 }),
      file('a/f', '1', { mtime: 2 }),
      symlink('s', 'a/b'),
      symlink('d/l', '/s/../c'),
      file('d/l/x', '2'),
      hardlink('h', 's/../f', { mtime: 3 }),
    ),
  ],
  'may be written in any order, children first': [
    tar(
      file('a/b/c', '1', { mtime: 1 }),
      directory('a/b', { mode: 0o700, mtime: 2 }),
      directory('a', { mode: 0o711, mtime: 3 }),
    ),
  ],
});

bothAgree(suite, 'hard links', {
  'share one inode and change it with their own attributes': [
    tar(
      file('a', 'shared', { mode: 0o600, uid: 1, mtime: 1 }),
      hardlink('b', 'a', { mode: 0o4755, uid: 2, mtime: 2 }),
      hardlink('c', './b', { mode: 0o644, gid: 3, mtime: 3 }),
    ),
  ],
  'are resolved inside the root, including symbolic links in their paths': [
    tar(
      directory('d'),
      file('d/f', 'x'),
      symlink('l', 'd'),
      hardlink('one', '/d/f'),
      hardlink('two', '../../d/f'),
      hardlink('three', 'l/f'),
      hardlink('d/four', 'd/./f'),
    ),
  ],
  'may be to a symbolic link, to a FIFO and to a device': [
    tar(
      symlink('l', 'nowhere', { mtime: 5 }),
      hardlink('m', 'l', { mtime: 6 }),
      fifo('p'),
      hardlink('q', 'p', { mode: 0o600 }),
      device('c', 'c', 1, 5),
      hardlink('e', 'c', { mode: 0o666 }),
    ),
  ],
  'follow a symbolic link if a slash comes after it': [
    tar(
      directory('d'),
      file('d/f', 'x'),
      symlink('l', 'd/f'),
      hardlink('the-link', 'l'),
      hardlink('slash', 'l/'),
      hardlink('dot', '/l/.'),
      hardlink('file-dot', 'd/f/.'),
    ),
  ],
  'are refused if they follow a link to a directory': [tar(directory('d'), symlink('l', 'd'), hardlink('h', 'l/'))],
  'are refused if they follow a dangling link': [tar(symlink('l', 'nowhere'), hardlink('h', 'l/'))],
  'replace an existing file': [tar(file('a', '1'), file('b', '2'), hardlink('b', 'a'))],
  'are refused if the layer does not have their target': [BASE, tar(hardlink('new', 'd/missing'))],
  'are refused to a directory': [tar(directory('d'), hardlink('e', 'd'))],
  'are refused to themselves': [tar(file('a', '1'), hardlink('a', 'a'))],
});

bothAgree(suite, 'attributes', {
  'include setuid, setgid and sticky bits, set after the owner': [
    tar(
      file('suid', '', { mode: 0o4755, uid: 1000 }),
      file('sgid', '', { mode: 0o2755, gid: 1000 }),
      directory('sticky', { mode: 0o1777, uid: 1 }),
      file('none', '', { mode: 0 }),
      file('all', '', { mode: 0o7777 }),
      file('more', '', { mode: 0o107644 }),
    ),
  ],
  'include extended attributes, file capabilities and ACLs': [
    tar(
      file('ping', 'x', { uid: 1, pax: [xattr('security.capability', CAPABILITY)] }),
      file('user', 'x', { pax: [xattr('user.a', 'b'), xattr('user.binary', Buffer.from([0, 10, 255, 61]))] }),
      directory('dir', { pax: [xattr('user.d', 'e')] }),
      file('acl', 'x', { mode: 0o640, pax: [xattr('system.posix_acl_access', ACL)] }),
      directory('acls', { pax: [xattr('system.posix_acl_default', ACL)] }),
      file('acls/inherits', 'x', { mode: 0o644 }),
      directory('acls/too', { mode: 0o755 }),
      file('acls/implied/x', 'x'),
    ),
  ],
  'do not include trusted.* and attributes that a file can’t have': [
    tar(
      file('a', '', { pax: [xattr('trusted.overlay.opaque', 'y'), xattr('trusted.x', 'y')] }),
      directory('d', { pax: [xattr('trusted.overlay.opaque', 'y')] }),
      symlink('l', 'a', { pax: [xattr('user.on.a.link', 'y')] }),
      fifo('p', { pax: [xattr('user.on.a.fifo', 'y')] }),
      file('b', '', { pax: [xattr('nonsense', 'y')] }),
    ),
  ],
  'stay if a hard link adds more': [
    tar(file('a', '', { pax: [xattr('user.one', '1')] }), hardlink('b', 'a', { pax: [xattr('user.two', '2')] })),
  ],
  'stay if a directory is merged': [
    tar(directory('d', { pax: [xattr('user.one', '1')] }), directory('d', { pax: [xattr('user.two', '2')] })),
  ],
  'include times to the nanosecond; the access time is the later of the two': [
    tar(
      file('a', 'x', {
        pax: [
          ['mtime', '1500000000.123456789'],
          ['atime', '1500000001.987654321'],
        ],
      }),
      file('b', 'x', {
        pax: [
          ['mtime', '1500000000.5'],
          ['atime', '1400000000'],
        ],
      }),
      symlink('c', 'x', { pax: [['mtime', '1500000000.000000001']] }),
      directory('d', { pax: [['mtime', '1500000000.25']] }),
      file('d/later'),
      fifo('e', {
        pax: [
          ['mtime', '1.1'],
          ['atime', '2.2'],
        ],
      }),
    ),
  ],
  'include times cut to the range of the kernel': [
    tar(
      file('before', '', { mtime: -1 }),
      file('long before', '', {
        pax: [
          ['mtime', '-1.5'],
          ['atime', '-3'],
        ],
      }),
      file('zero', '', { mtime: 0 }),
      file('after', '', { pax: [['mtime', '9223372036.854775807']] }),
      file('too late', '', { pax: [['mtime', '9223372036.854775808']] }),
      file('far too late', '', { mtime: 2n ** 40n }),
      file('2500', '', { mtime: 16_725_225_600 }),
    ),
  ],
  'include owners of 32 bits': [
    tar(file('a', '', { uid: 4_000_000_000, gid: 65_536 }), file('b', '', { uid: 2 ** 31 - 1 })),
  ],
});

bothAgree(suite, 'whiteouts', {
  'of names and of whole directories': [BASE, tar(whiteout('z', { uid: 3, gid: 4 }), whiteout('d/e'), whiteout('l'))],
  'of files that do not exist': [BASE, tar(whiteout('nothing'), whiteout('d/nothing'))],
  'make their missing parent directories': [BASE, tar(whiteout('d/e/f'), whiteout('new/x'))],
  'that make a directory opaque': [BASE, tar(directory('d', { mtime: 9 }), opaque('d'), file('d/only'))],
  'that make an unnamed directory opaque': [BASE, tar(opaque('d'), file('d/only'))],
  'that make the root opaque': [BASE, tar(opaque(''), file('only'))],
  'in the bottom layer delete nothing': [tar(file('a'), whiteout('b'), whiteout('c/d'), directory('e'), opaque('e'))],
  'of names that begin with dots': [BASE, tar(whiteout('.hidden'), whiteout('...'), whiteout('..x'))],
  'are told from devices 0:0 of an archive': [
    BASE,
    tar(
      device('d', 'c', 0, 0, { mtime: 7 }),
      directory('d', { mtime: 8 }),
      device('empty', 'c', 0, 0, { mtime: 9 }),
      file('x'),
      device('x', 'c', 0, 0),
      directory('x/', { mtime: 10 }),
    ),
  ],
  'through a symbolic link of the same layer': [BASE, tar(directory('d'), symlink('k', 'd'), whiteout('k/g'))],
});

/** A link to `real`, a file written through the link, and the names in the link's target. */
const wayOver = (target: string, link = 'l'): Buffer =>
  tar(
    directory('real', { mtime: 5 }),
    file('file', 'x'),
    directory('deep/er', { mtime: 6 }),
    symlink(link, target),
    file(`${link}/f`, 'y'),
    directory(`${link}/d/`, { mtime: 7 }),
    hardlink('h', `${link}/f`),
    whiteout(`${link}/gone`),
  );

bothAgree(suite, '`..` in the target of a link', {
  'removes a missing name': [wayOver('missing/../real')],
  'removes a missing name in an absolute target': [wayOver('/missing/../real')],
  'removes several missing names': [wayOver('a/b/../../real')],
  'removes the name of a file': [wayOver('file/../real')],
  'removes the name of a file after other names': [wayOver('real/x/../../file/../real')],
  'makes the missing directories of the resolved path': [wayOver('a/b/../new/er')],
  'starts from the directory of the link': [
    wayOver('../missing/../../real', 'deep/l'),
    wayOver('missing/../../real', 'deep/l'),
  ],
  'starts from the directory of the link, when a link leads there': [
    wayOver('missing/..', 'deep/er/l'),
    wayOver('../file/..', 'deep/l'),
  ],
});

bothAgree(suite, 'whiteouts of names that begin with .wh.', {
  'are ordinary names outside the root': [
    tar(directory('d'), file('d/x'), file('d/y')),
    tar(
      file('d/.wh..wh.x', ''),
      file('d/.wh..wh.', ''),
      file('d/.wh..wh.plnk/1.2', 'x'),
      hardlink('h', 'd/.wh..wh.plnk/1.2'),
    ),
  ],
});

bothAgree(suite, 'layers on layers', {
  'change files, links and directories into each other': [
    BASE,
    tar(directory('z'), file('z/in'), file('l', 'was a link'), file('d/e', 'was a folder'), symlink('empty', 'd')),
  ],
  'get attributes of implied directories from below': [
    BASE,
    tar(file('d/e/new', 'x')),
    tar(file('d/newer', 'x'), file('empty/x/y', 'z')),
    tar(file('d/e/newest', 'x')),
  ],
  'keep attributes from below if a directory’s entry comes after its content': [
    tar(directory('d', { uid: 1, pax: [xattr('user.below', '1'), xattr('system.posix_acl_access', ACL)] })),
    tar(file('d/e/f'), directory('d', { mode: 0o700, mtime: 3, pax: [xattr('user.entry', '2')] })),
  ],
  'make a directory in place of a link of the layer below': [
    BASE,
    tar(file('l/new', 'x')),
    tar(file('absolute/new', 'x')),
  ],
  'make a directory in place of a file of the layer below': [BASE, tar(file('z/new', 'x'))],
  'may repeat the same archive': [BASE, BASE, BASE],
  'may be empty': [BASE, tar(), Buffer.alloc(0), tar(directory('./'))],
});
