import koffi from 'koffi';
import { libc } from '../../src/system/libc.ts';
import { applyTar } from '../support/apply.ts';
import { ALLOW, CALL, EQUAL, ERROR, filterSystemCalls, LOAD, RETURN } from '../support/seccomp.ts';
import { directory, file, symlink, tar } from '../support/tar.ts';

/** Applies an archive under a seccomp filter that makes openat2 fail: `without-openat2.ts ROOT ERRNO`. */
const [root, errno] = process.argv.slice(2);
if (root === undefined) throw new Error('a root is needed');

const SYS_OPENAT2 = 437;
filterSystemCalls([
  [LOAD, 0, 0, CALL],
  [EQUAL, 0, 1, SYS_OPENAT2],
  [RETURN, 0, 0, ERROR | Number(errno)],
  [RETURN, 0, 0, ALLOW],
]);

// check that the filter works
const openat2 = libc.func('long syscall(long, int, str, void *, long)');
const answer = Number(openat2(SYS_OPENAT2, -100, '.', Buffer.alloc(24), 24));
if (answer !== -1 || koffi.errno() !== Number(errno)) throw new Error(`openat2 answers ${answer}, ${koffi.errno()}`);

applyTar(
  tar(
    directory('d'),
    file('d/e/f', 'x'),
    symlink('l', 'd'),
    file('l/g', 'y'),
    file('d/e/h', 'z'),
    symlink('o', '/..'),
    file('o/i'),
  ),
  { root, below: 'later' },
);
