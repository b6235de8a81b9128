import { accessAcl, defaultAcl } from '../support/acl.ts';
import { device, directory, fifo, file, hardlink, opaque, symlink, tar, whiteout } from '../support/tar.ts';
import { bothAgree, differOnPurpose, started } from './agreement.ts';

/**
 * A directory with a default ACL in a layer below, which a layer above writes into and does not name before: containerd
 * copies the directory first, so that the kernel passes the ACL on to all that is made in it.
 */
const suite = await started();

const WIDE = 'user::rwx,user:1000:rwx,group::r-x,mask::rwx,other::r-x';
const NARROW = 'user::r--,user:7:r--,group::---,group:8:rw-,mask::r--,other::---';
/** Says no more than a mode does, so that what is made has no ACL, but directories still pass it on. */
const MINIMAL = 'user::rwx,group::r--,other::---';

type Records = readonly (readonly [string, Buffer])[];

/** `d/plain` and `d/own` were there before `d` got its ACL, so neither has inherited it. */
const full = (...d: Records): Buffer =>
  tar(
    directory('d/plain', { mode: 0o711, uid: 3, mtime: 1 }),
    directory('d/own', { mode: 0o700, uid: 4, mtime: 2, pax: [defaultAcl(NARROW), accessAcl(NARROW)] }),
    file('d/old', 'below', { mtime: 3 }),
    file('d/plain/old', 'below', { mtime: 3 }),
    file('outside', 'below', { mtime: 3 }),
    directory('d', { mode: 0o2775, uid: 5, gid: 6, mtime: 4, pax: d }),
  );

/** Containerd's own copies pass default ACLs on to what they copy, so there is nothing to copy in `d`. */
const empty = (...d: Records): Buffer =>
  tar(file('outside', 'below', { mtime: 3 }), directory('d', { mode: 0o2775, uid: 5, gid: 6, mtime: 4, pax: d }));

const everything = (where: string) => [
  file(`${where}/file`, 'new', { mode: 0o640, uid: 1, mtime: 5 }),
  file(`${where}/setuid`, 'new', { mode: 0o6755, gid: 2, mtime: 5 }),
  directory(`${where}/dir`, { mode: 0o750, uid: 2, mtime: 6 }),
  file(`${where}/dir/file`, 'new', { mode: 0o606, mtime: 5 }),
  file(`${where}/made/for/file`, 'new', { mtime: 5 }),
  symlink(`${where}/link`, 'file', { mtime: 5 }),
  device(`${where}/device`, 'c', 1, 3, { mode: 0o666, mtime: 5 }),
  device(`${where}/disk`, 'b', 7, 1, { mode: 0o660, mtime: 5 }),
  fifo(`${where}/pipe`, { mode: 0o622, mtime: 5 }),
  hardlink(`${where}/second`, `${where}/file`, { mode: 0o604, mtime: 5 }),
];

for (const [type, below] of [
  ['overlay', full],
  ['native', empty],
] as const) {
  bothAgree(
    suite,
    `${type}: a default ACL of the layers below`,
    Object.fromEntries(
      Object.entries({ wide: WIDE, narrow: NARROW, minimal: MINIMAL }).flatMap(([kind, text]) =>
        ['d', 'd/plain', 'd/own', 'd/new'].map((where) => [
          `is inherited by what is made in ${where}, ${kind}`,
          [below(defaultAcl(text)), tar(...everything(where))],
        ]),
      ),
    ),
    [type],
  );

  bothAgree(
    suite,
    `${type}: a default ACL of the layers below is inherited`,
    {
      'beside an ACL of the directory’s own': [below(defaultAcl(WIDE), accessAcl(NARROW)), tar(...everything('d'))],
      'from any layer below, through one that makes the directory by need too': [
        below(defaultAcl(WIDE)),
        tar(file('d/one')),
        tar(file('d/two'), file('d/plain/two')),
      ],
      'not from a layer below one that names the directory without it': [
        below(defaultAcl(WIDE)),
        tar(directory('d', { mode: 0o700 })),
        tar(...everything('d')),
      ],
      'not where the directory is named before': [below(defaultAcl(WIDE)), tar(directory('d'), ...everything('d'))],
      'until the directory is named with another': [
        below(defaultAcl(WIDE)),
        tar(file('d/before'), directory('d', { pax: [defaultAcl(NARROW)] }), file('d/after'), file('d/n/after')),
      ],
      'also after the directory is named without one': [
        below(defaultAcl(WIDE)),
        tar(file('d/before'), directory('d', { mode: 0o751, uid: 9, mtime: 7 }), file('d/after'), directory('d/n')),
      ],
      'also after the directory is named with an access ACL that says no more than a mode': [
        below(defaultAcl(WIDE), accessAcl(WIDE)),
        tar(file('d/before'), directory('d', { mode: 0o751, pax: [accessAcl(MINIMAL)] }), file('d/after')),
      ],
      'unless the entry has an ACL of its own': [
        below(defaultAcl(WIDE)),
        tar(
          file('d/own file', '', { mode: 0o640, pax: [accessAcl(NARROW)] }),
          file('d/plain file', '', { mode: 0o640, pax: [accessAcl(MINIMAL)] }),
          directory('d/own dir', { pax: [defaultAcl(NARROW)] }),
          file('d/own dir/f'),
          directory('d/plain dir', { pax: [defaultAcl(MINIMAL), accessAcl(MINIMAL)] }),
          file('d/plain dir/f'),
        ),
      ],
      'by what replaces something of the same layer': [
        below(defaultAcl(WIDE)),
        tar(
          file('d/a', 'first', { mode: 0o600 }),
          file('d/a', 'second', { mode: 0o604 }),
          directory('d/b'),
          file('d/b/f'),
          file('d/b', 'a file now'),
          file('d/c'),
          directory('d/c', { mode: 0o1777 }),
          file('d/c/f'),
        ),
      ],
      'by a file that is linked elsewhere, and not by one that is linked here': [
        below(defaultAcl(WIDE)),
        tar(
          file('inside', 'made outside', { mode: 0o640 }),
          hardlink('d/from outside', 'inside', { mode: 0o640 }),
          file('d/out', 'made inside', { mode: 0o640 }),
          hardlink('from inside', 'd/out', { mode: 0o604 }),
          file('d/out', 'another now', { mode: 0o600 }),
          hardlink('d/twice', 'from inside', { mode: 0o777, pax: [accessAcl(NARROW)] }),
        ),
      ],
      'by what is made by way of a link': [
        below(defaultAcl(WIDE)),
        tar(symlink('l', 'd/plain'), file('l/f'), file('l/n/f'), file('d/f')),
      ],
      'beside deletions, and by them': [
        below(defaultAcl(WIDE)),
        tar(whiteout('d/old'), whiteout('d/plain/old'), file('d/new')),
      ],
      'by nothing but a deletion': [below(defaultAcl(WIDE)), tar(whiteout('d/plain/old'))],
      'in an opaque directory, before and after the marker': [
        below(defaultAcl(WIDE)),
        tar(opaque('d'), file('d/new'), file('d/new dir/f')),
      ],
      'where the directory is replaced, not by its successor': [
        below(defaultAcl(WIDE)),
        tar(file('d/f'), file('d', 'a file'), directory('d'), file('d/g')),
      ],
    },
    [type],
  );
}

differOnPurpose(suite, {
  'a directory that is deleted passes no default ACL on, in whichever order': {
    image: [
      empty(defaultAcl(WIDE)),
      tar(file('d/f'), file('d/n/f'), fifo('d/n/p'), symlink('d/l', 'f'), whiteout('d')),
    ],
    equivalent: [
      empty(defaultAcl(WIDE)),
      tar(whiteout('d'), file('d/f'), file('d/n/f'), fifo('d/n/p'), symlink('d/l', 'f')),
    ],
    stores: ['native'],
  },
});
