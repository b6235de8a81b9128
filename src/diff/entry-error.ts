import { showName, type TarEntry } from '../archive/entry.ts';
import { errnoOf, systemMessage } from '../errno.ts';
import { type FailureCode, toUnpackError, UnpackError } from '../errors.ts';

/** Errors for a name, path, target or value that no file system accepts. */
const CANNOT_BE = new Set(['ENOENT', 'ENOTDIR', 'EISDIR', 'EEXIST', 'ELOOP', 'EINVAL', 'EILSEQ']);

const TOO_LONG =
  'has a name, a path, a target or an extended attribute name that is too long (at most 255 bytes for a name, 4095 for a path)';

/** Errors for an entry that is valid but too large for this machine. Another file system possibly accepts it. */
const TOO_MUCH: Readonly<Record<string, string>> = {
  ENAMETOOLONG: TOO_LONG,
  ERANGE: TOO_LONG,
  E2BIG: 'has a value that is larger than the kernel accepts in one call',
  EFBIG: 'is longer than the maximum file size of this file system, or than a limit of this process (ulimit -f)',
  EMLINK:
    'needs more hard links to a file, or more subdirectories in a directory, than this file system allows (ext4: 65,000); use another file system',
};

const NO_DEVICES =
  'this user has no permission to make devices: run the worker as root of the machine with CAP_MKNOD (see unpackd doctor), or set UNPACK_OWNERSHIP=squash to leave devices out';

/**
 * Converts any error that was thrown while an entry was written to an UnpackError with the name of the entry.
 * LAYER_CORRUPT: no file system can do what the entry needs. LIMIT_EXCEEDED: this file system cannot do it. STORE_FULL
 * or STORE_FAILED: all other system errors, because the archive did not cause them.
 */
export function entryError(error: unknown, entry: TarEntry | undefined): UnpackError {
  const which =
    entry === undefined ? 'an entry' : `the entry ${showName(entry.name)} at byte ${entry.offset} of the tar`;
  const failure = (code: FailureCode, text: string) => new UnpackError(code, `${which}${text}`, { cause: error });
  if (error instanceof UnpackError) return failure(error.code, `: ${error.message}`);
  const errno = errnoOf(error);
  if (errno === undefined) return toUnpackError(error);
  const { syscall } = error as NodeJS.ErrnoException;
  const message = brief(systemMessage(error as Error));
  if (errno === 'EINVAL' && syscall?.startsWith('fchown') === true)
    return failure('STORE_FAILED', `: ${noSuchOwner(entry)}`);
  if (errno === 'EPERM' && syscall === 'mknodat') return failure('STORE_FAILED', `: ${message}; ${NO_DEVICES}`);
  if (CANNOT_BE.has(errno)) return failure('LAYER_CORRUPT', ` cannot be created: ${message}`);
  const much = TOO_MUCH[errno];
  if (much !== undefined) return failure('LIMIT_EXCEEDED', ` ${much}: ${message}`);
  const host = toUnpackError(error);
  if (host.code !== 'INTERNAL') return failure(host.code, `: ${host.message}`);
  return failure('STORE_FAILED', `: ${message}; see also the kernel log (dmesg)`);
}

/** EINVAL for an owner occurs only in a user namespace without this ID. */
function noSuchOwner(entry: TarEntry | undefined): string {
  return `the user namespace of this worker has no owner ${entry?.uid}:${entry?.gid}; run the worker with more IDs (/etc/subuid, /etc/subgid) or as root of the machine, or set UNPACK_OWNERSHIP=squash`;
}

/** Shortens a message, because it contains a name from the archive, and the name can be long. */
const brief = (message: string): string => (message.length > 300 ? `${message.slice(0, 300)}…` : message);
