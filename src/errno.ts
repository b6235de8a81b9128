import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';

/** An error of the kernel: its name in errno(3), and what it says. */
interface Errno {
  readonly name: string;
  readonly text: string;
}

/**
 * Those that libuv has no entry for, and node:fs no name: it says `UNKNOWN: unknown error`, or `Unknown system error -122`,
 * where 122 is a quota that is used up.
 */
const UNNAMED: readonly (readonly [number, string, string])[] = [
  [constants.errno.EBADMSG, 'EBADMSG', 'bad message'],
  [constants.errno.EDQUOT, 'EDQUOT', 'disk quota exceeded'],
  [constants.errno.ENOLINK, 'ENOLINK', 'link has been severed'],
  [constants.errno.ESTALE, 'ESTALE', 'stale file handle'],
  [117, 'EUCLEAN', 'structure needs cleaning'],
  [126, 'ENOKEY', 'required key not available'],
];

const KNOWN = new Map<number, Errno>([
  ...UNNAMED.map(([number, name, text]) => [number, { name, text }] as const),
  ...[...getSystemErrorMap()].map(([number, [name, text]]) => [-number, { name, text }] as const),
]);

/** @param errno positive, as the C library has it */
export function errnoFacts(errno: number): Errno {
  return KNOWN.get(errno) ?? { name: `errno ${errno}`, text: `error ${errno}` };
}

/** The name of the kernel's error that a call failed with; `undefined` for what is no system error. */
export function errnoOf(thrown: unknown): string | undefined {
  if (!(thrown instanceof Error)) return undefined;
  const { code, errno } = thrown as NodeJS.ErrnoException;
  if (typeof code !== 'string') return undefined;
  return isUnnamed(code) && errno !== undefined ? errnoFacts(-errno).name : code;
}

/** The message of a system error, with the names that Node has not. */
export function systemMessage(error: Error): string {
  const { code, errno } = error as NodeJS.ErrnoException;
  if (code === undefined || errno === undefined || !isUnnamed(code)) return error.message;
  const { name, text } = errnoFacts(-errno);
  return error.message.replace(/^(UNKNOWN: unknown error|(Unknown system error -\d+(: )?)+)/, `${name}: ${text}`);
}

const isUnnamed = (code: string): boolean => code === 'UNKNOWN' || code.startsWith('Unknown system error');

export const MAKE_ROOM = 'free space or inodes (unpackd snapshots usage, rm, cleanup), or use a larger file system';

const NOT_ALLOWED =
  'this user may not do that: unpackd doctor looks at its rights; an immutable file (lsattr), a security module or a sandbox refuses even root';

/** What the machine is to blame for, not what is asked of it, and what a person can do about it. */
export const HOST_ERRNO: Readonly<Record<string, { readonly full: boolean; readonly advice: string }>> = {
  ENOSPC: full(MAKE_ROOM),
  EDQUOT: full(`raise the quota, or ${MAKE_ROOM}`),
  EIO: failed('the disk cannot be read or written: see what the kernel logs (dmesg)'),
  EROFS: failed(
    'the file system is read-only, as the kernel makes it after an error: see what it logs (dmesg), check it (fsck), mount it read-write',
  ),
  EUCLEAN: failed('the file system is damaged: see what the kernel logs (dmesg), unmount it and check it (fsck)'),
  EBADMSG: failed('the file system is damaged: see what the kernel logs (dmesg), unmount it and check it (fsck)'),
  ENODEV: failed('the disk is gone: see what the kernel logs (dmesg), mount it again and restart the worker'),
  ENXIO: failed('the disk is gone: see what the kernel logs (dmesg), mount it again and restart the worker'),
  ESTALE: failed('the file system is another one than before: mount it again and restart the worker'),
  EMFILE: failed(
    'this process has too many files open: raise its limit (ulimit -n, LimitNOFILE), or lower UNPACK_JOBS and UNPACK_THREADS',
  ),
  ENFILE: failed('this machine has too many files open: raise fs.file-max, or look for who opens them (lsof)'),
  ENOMEM: failed('no memory is left: lower UNPACK_JOBS and UNPACK_THREADS, or give the machine or the container more'),
  EACCES: failed(NOT_ALLOWED),
  EPERM: failed(NOT_ALLOWED),
};

function full(advice: string) {
  return { full: true, advice };
}

function failed(advice: string) {
  return { full: false, advice };
}
