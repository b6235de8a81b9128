import { accessAcl, defaultAcl } from '../support/acl.ts';
import { device, directory, fifo, file, hardlink, opaque, symlink, tar, whiteout } from '../support/tar.ts';
import { bothAgree, differOnPurpose, started } from './agreement.ts';

/**
 * A layer writes into a directory that it does not name first, and the layer below has a default ACL for this directory.
 * containerd copies the directory first, so all that is made in it inherits the ACL.
 */
const suite = await started();

const WIDE = 'user::rwx,user:1000:rwx,group::r-x,mask::rwx,other::r-x';
const NARROW = 'user::r--,user:7:r--,group::---,group:8:rw-,mask::r--,other::---';
/** A default ACL with only the entries of a mode: new files get no ACL, but new directories still inherit it. */
const MINIMAL = 'user::rwx,group::r--,other::---';

type Records = readonly (readonly [string, Buffer])[];

/** `d/plain` and `d/own` are older than the ACL of `d`, so they have not inherited it. */
const full = (...d: Records): Buffer =>
  tar(
    directory('d/plain', { mode: 0o711, uid: 3, mtime: 1 }),
    directory('d/own', { mode: 0o700, uid: 4, mtime: 2, pax: [defaultAcl(NARROW), accessAcl(NARROW)] }),
    file('d/old', 'below', { mtime: 3 }),
    file('d/plain/old', 'below', { mtime: 3 }),
    file('outside', 'below', { mtime: 3 }),
    directory('d', { mode: 0o2775, uid: 5, gid: 6, mtime: 4, pax: d }),
  );

/** `d` is empty, because files in containerd's copies inherit default ACLs. */
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
      'if the directory has an access ACL too': [below(defaultAcl(WIDE), accessAcl(NARROW)), tar(...everything('d'))],
      'from any layer below, also through a layer with the implied directory': [
        below(defaultAcl(WIDE)),
        tar(file('d/one')),
        tar(file('d/two'), file('d/plain/two')),
      ],
      'not from below a layer that names the directory without it': [
        below(defaultAcl(WIDE)),
        tar(directory('d', { mode: 0o700 })),
        tar(...everything('d')),
      ],
      'not if the directory is named first': [below(defaultAcl(WIDE)), tar(directory('d'), ...everything('d'))],
      'until the directory is named with another ACL': [
        below(defaultAcl(WIDE)),
        tar(file('d/before'), directory('d', { pax: [defaultAcl(NARROW)] }), file('d/after'), file('d/n/after')),
      ],
      'also after the directory is named without an ACL': [
        below(defaultAcl(WIDE)),
        tar(file('d/before'), directory('d', { mode: 0o751, uid: 9, mtime: 7 }), file('d/after'), directory('d/n')),
      ],
      'also after the directory is named with an access ACL that equals a mode': [
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
      'by an entry that replaces another of the same layer': [
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
      'by a file that is linked elsewhere, not by a link to a file elsewhere': [
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
      'by entries whose paths lead through a link': [
        below(defaultAcl(WIDE)),
        tar(symlink('l', 'd/plain'), file('l/f'), file('l/n/f'), file('d/f')),
      ],
      'by entries next to whiteouts, and by whiteouts': [
        below(defaultAcl(WIDE)),
        tar(whiteout('d/old'), whiteout('d/plain/old'), file('d/new')),
      ],
      'by a whiteout alone': [below(defaultAcl(WIDE)), tar(whiteout('d/plain/old'))],
      'in an opaque directory, before and after the marker': [
        below(defaultAcl(WIDE)),
        tar(opaque('d'), file('d/new'), file('d/new dir/f')),
      ],
      'until the directory is replaced, not by the new one': [
        below(defaultAcl(WIDE)),
        tar(file('d/f'), file('d', 'a file'), directory('d'), file('d/g')),
      ],
    },
    [type],
  );
}

differOnPurpose(suite, {
  'the default ACL of a directory that the layer deletes is not inherited, in any order': {
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
