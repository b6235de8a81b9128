import koffi from 'koffi';
import { libc, systemError } from '../../src/system/libc.ts';
import { applyTar } from '../support/apply.ts';
import { directory, file, symlink, tar } from '../support/tar.ts';

/** Applies an archive where a seccomp filter answers openat2 with an error: `without-openat2.ts ROOT ERRNO`. */
const [root, errno] = process.argv.slice(2);
if (root === undefined) throw new Error('a root is needed');

// struct sock_fprog and its four instructions (seccomp(2)): load the number, compare, refuse, allow
const SYS_OPENAT2 = 437;
const program = koffi.struct({ length: 'uint16', filter: 'void *' });
const instruction = (code: number, yes: number, no: number, value: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt16LE(code, 0);
  bytes[2] = yes;
  bytes[3] = no;
  bytes.writeUInt32LE(value >>> 0, 4);
  return bytes;
};
const filter = Buffer.concat([
  instruction(0x20, 0, 0, 0),
  instruction(0x15, 0, 1, SYS_OPENAT2),
  instruction(0x06, 0, 0, 0x00050000 | Number(errno)),
  instruction(0x06, 0, 0, 0x7fff0000),
]);
const PR_SET_NO_NEW_PRIVS = 38;
const PR_SET_SECCOMP = 22;
const SECCOMP_MODE_FILTER = 2;
const prctl = libc.func('prctl', 'int', ['int', 'ulong', 'ulong', 'ulong', 'ulong']);
const prctlProgram = libc.func('prctl', 'int', ['int', 'ulong', koffi.pointer(program), 'ulong', 'ulong']);
if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) !== 0) throw systemError('prctl');
if (prctlProgram(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, { length: 4, filter }, 0, 0) !== 0) throw systemError('prctl');

// were openat2 still there, this would fail with the filter's error
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
  { root, whiteouts: 'overlay' },
);
