import { directory, file, hardlink, opaque, paxHeader, symlink, tar, whiteout } from '../support/tar.ts';
import { differOnPurpose, started } from './agreement.ts';

const suite = await started();
const now = Math.ceil(Date.now() / 1000);
/** A default ACL: u::rwx, u:1000:rwx, g::r-x, m::rwx, o::r-x. */
const ACL = Buffer.from(
  '0200000001000700ffffffff02000700e803000004000500ffffffff10000700ffffffff20000500ffffffff',
  'hex',
);
const ACLS = [
  ['SCHILY.xattr.system.posix_acl_default', ACL],
  ['SCHILY.xattr.user.below', 'old'],
] as const;
const BASE = tar(
  directory('d', { mtime: 1, uid: 5 }),
  directory('d/e', { uid: 6 }),
  file('d/f', 'below'),
  file('d/e/g', 'below'),
);

/** `d/l` leads to `a/c`. If `s/..` were removed as text, or after replacing `s` by its target, it would lead to `c`. */
const links = (s: string, l: string) => [
  directory('a/b', { mtime: 1 }),
  directory('a/c', { mtime: 2 }),
  directory('c', { mtime: 3 }),
  directory('d', { mtime: 4 }),
  symlink('t', 'a/b'),
  symlink('s', s),
  symlink('d/l', l),
];

differOnPurpose(suite, {
  'a PAX global header leaves no stray folder': {
    image: [tar(paxHeader([['comment', 'x']], 'g'), file('a'))],
    equivalent: [tar(file('a'))],
  },
  'names in the root that begin with .wh..wh. are ignored, with their implied directories': {
    image: [tar(file('d/a')), tar(file('.wh..wh.aufs', ''), file('.wh..wh.orph/1/2', ''), file('b'))],
    equivalent: [tar(file('d/a')), tar(file('b'))],
  },
  'hard links into .wh..wh.plnk are links to each other, and .wh..wh.plnk is removed': {
    image: [
      tar(
        file('.wh..wh.plnk/1.2', 'x', { mode: 0o755 }),
        hardlink('bin/x', '/.wh..wh.plnk/1.2', { uid: 3 }),
        hardlink('bin/y', '.wh..wh.plnk/1.2', { uid: 4 }),
      ),
    ],
    equivalent: [tar(file('bin/x', 'x', { uid: 3 }), hardlink('bin/y', 'bin/x', { uid: 4 }))],
  },
  'a directory that a layer deletes and then makes is opaque': {
    image: [BASE, tar(whiteout('d'), directory('d', { mtime: 7 }), file('d/new'))],
    equivalent: [BASE, tar(directory('d', { mtime: 7 }), opaque('d'), file('d/new'))],
    stores: ['overlay'],
  },
  'a directory that a layer deletes and then makes is opaque, even with a file of that name in between': {
    image: [BASE, tar(whiteout('d'), file('d', 'for a while'), directory('d', { mtime: 7 }), file('d/new'))],
    equivalent: [BASE, tar(directory('d', { mtime: 7 }), opaque('d'), file('d/new'))],
    stores: ['overlay'],
  },
  'a whiteout in a full copy hides what is below, but nothing of the same layer': {
    image: [BASE, tar(file('d/f', 'mine'), file('d/e/mine'), whiteout('d/f'), whiteout('d/e/g'))],
    equivalent: [BASE, tar(whiteout('d/f'), whiteout('d/e/g'), file('d/f', 'mine'), file('d/e/mine'))],
    stores: ['native'],
  },
  'a directory of a full copy that a layer writes into and then deletes is made as a new one': {
    image: [
      tar(directory('d', { mtime: 1, uid: 5, pax: ACLS }), directory('d/e', { mode: 0o711 }), file('d/e/f')),
      tar(file('d/e/new'), file('x'), whiteout('d')),
    ],
    equivalent: [
      tar(directory('d', { mtime: 1, uid: 5, pax: ACLS }), directory('d/e', { mode: 0o711 }), file('d/e/f')),
      tar(whiteout('d'), file('d/e/new'), file('x')),
    ],
    stores: ['native'],
  },
  'an opaque marker in a full copy hides only what is below, wherever it stands': {
    image: [BASE, tar(file('d/e/new'), opaque('d'))],
    equivalent: [BASE, tar(opaque('d'), directory('d/e', { uid: 6, mtime: now }), file('d/e/new'))],
    stores: ['native'],
  },
  'a whiteout in a bottom layer deletes nothing of the layer': {
    image: [tar(file('a', 'x'), whiteout('a'), directory('d'), file('d/e/f'), opaque('d'))],
    equivalent: [tar(file('a', 'x'), directory('d'), file('d/e/f'))],
  },
  'attributes in LIBARCHIVE records are set if there are no others': {
    image: [tar(file('a', '', { pax: [['LIBARCHIVE.xattr.user.a%20b', 'aGk']] }))],
    equivalent: [tar(file('a', '', { pax: [['SCHILY.xattr.user.a b', 'hi']] }))],
  },
  '.. in a link’s target goes up from the target of the link before it, as in the kernel': {
    image: [tar(...links('a/b', '../s/../c'), file('d/l/x'))],
    equivalent: [tar(...links('a/b', '../s/../c'), file('a/c/x'))],
  },
  '.. does so in an absolute target too, and if the link before it leads to another link': {
    image: [tar(...links('t', '/s/../c'), file('d/l/x'))],
    equivalent: [tar(...links('t', '/s/../c'), file('a/c/x'))],
  },
});
