import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';

/**
 * The kernel's errors by name, and which of them are faults of the machine. `errors.ts` converts these to STORE_FULL
 * and STORE_FAILED.
 */

/** An error of the kernel: its name in errno(3), and its message. */
interface Errno {
  readonly name: string;
  readonly text: string;
}

/**
 * Errors that have no name in libuv and node:fs. Node reports them as `UNKNOWN: unknown error` or `Unknown system error
 * -122`; 122 is EDQUOT.
 */
const UNNAMED: readonly (readonly [number, string, string])[] = [
  [15, 'ENOTBLK', 'block device required'],
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

/** @param errno positive, as in the C library */
export function errnoFacts(errno: number): Errno {
  return KNOWN.get(errno) ?? { name: `errno ${errno}`, text: `error ${errno}` };
}

/** The name of a system error, such as `ENOSPC`; `undefined` for any other value. */
export function errnoOf(thrown: unknown): string | undefined {
  if (!(thrown instanceof Error)) return undefined;
  const { code, errno } = thrown as NodeJS.ErrnoException;
  if (typeof code !== 'string') return undefined;
  return isUnnamed(code) && errno !== undefined ? errnoFacts(-errno).name : code;
}

/** Whether an error means that a path does not exist. ENOTDIR: a part of the path is not a directory. */
export function isMissing(thrown: unknown): boolean {
  const errno = errnoOf(thrown);
  return errno === 'ENOENT' || errno === 'ENOTDIR';
}

/** The message of a system error, with the name and text of those that Node does not know. */
export function systemMessage(error: Error): string {
  const { code, errno } = error as NodeJS.ErrnoException;
  if (code === undefined || errno === undefined || !isUnnamed(code)) return error.message;
  const { name, text } = errnoFacts(-errno);
  return error.message.replace(/^(UNKNOWN: unknown error|(Unknown system error -\d+(: )?)+)/, `${name}: ${text}`);
}

const isUnnamed = (code: string): boolean => code === 'UNKNOWN' || code.startsWith('Unknown system error');

/** The advice for a full disk, whatever is on it. */
const MAKE_ROOM = 'free space or inodes, or use a larger file system';

/** The commands that free space in a store. containerd collects in its own, so those of our own store are refused there. */
const FREEING = {
  unpackd: 'unpackd gc --until 20%, unpackd images rm, unpackd snapshots cleanup',
  containerd: 'unpackd images rm, ctr images rm, crictl rmi --prune',
} as const;

/** What follows the advice for a full disk if a store is on it. @param collectedBy as in Snapshotter */
export function freeingText(collectedBy: keyof typeof FREEING): string {
  return ` (to free space: ${FREEING[collectedBy]})`;
}

/** The advice for a disk that is full, with a store on it. @param collectedBy as in Snapshotter */
export function makeRoomIn(collectedBy: keyof typeof FREEING): string {
  return `${MAKE_ROOM}${freeingText(collectedBy)}`;
}

const NOT_ALLOWED =
  'this user lacks the permission: run unpackd doctor; even root is refused by an immutable file (lsattr), a security module or a sandbox';

/** Errors that are faults of the machine and not of the request, with what an operator can do. */
export const HOST_ERRNO: Readonly<Record<string, { readonly full: boolean; readonly advice: string }>> = {
  ENOSPC: full(MAKE_ROOM),
  EDQUOT: full(`raise the quota, or ${MAKE_ROOM}`),
  EIO: failed('the disk cannot be read or written: see the kernel log (dmesg)'),
  EROFS: failed(
    'the file system is read-only, as the kernel makes it after an error: see the kernel log (dmesg), run fsck, mount it read-write',
  ),
  EUCLEAN: failed('the file system is damaged: see the kernel log (dmesg), unmount it and run fsck'),
  EBADMSG: failed('the file system is damaged: see the kernel log (dmesg), unmount it and run fsck'),
  ENODEV: failed('the disk is gone: see the kernel log (dmesg), mount it again and restart unpackd'),
  ENXIO: failed('the disk is gone: see the kernel log (dmesg), mount it again and restart unpackd'),
  ESTALE: failed('the file handle is stale, because the file system was replaced: mount it again and restart unpackd'),
  EMFILE: failed(
    'this process has too many files open: raise its limit (ulimit -n, LimitNOFILE), or lower UNPACK_JOBS and UNPACK_THREADS',
  ),
  ENFILE: failed('this machine has too many files open: raise fs.file-max, or find the process that opens them (lsof)'),
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
