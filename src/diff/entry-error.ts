import { showName, type TarEntry } from '../archive/entry.ts';
import { errnoOf, systemMessage } from '../errno.ts';
import { type FailureCode, toUnpackError, UnpackError } from '../errors.ts';

/** How the kernel says that a name, a way, a target or a value cannot be, wherever it is written. */
const CANNOT_BE = new Set(['ENOENT', 'ENOTDIR', 'EISDIR', 'EEXIST', 'ELOOP', 'EINVAL', 'EILSEQ']);

const TOO_LONG =
  'has a name, a path, a target or the name of an extended attribute that is too long (255 bytes are the most of a name, 4095 of a path)';

/** What is too large and not damaged: no attempt here can write it. Another file system may take some of it. */
const TOO_MUCH: Readonly<Record<string, string>> = {
  ENAMETOOLONG: TOO_LONG,
  ERANGE: TOO_LONG,
  E2BIG: 'has more of something than the kernel takes at once',
  EFBIG: 'is longer than a file may be on this file system, or by a limit of this process (ulimit -f)',
  EMLINK:
    'is one name more than a file can have here, or one directory more than a directory can hold (ext4: 65,000); another file system may do',
};

const NO_DEVICES =
  'this user may not make devices: run the worker as root of the machine with CAP_MKNOD (unpackd doctor), or set UNPACK_OWNERSHIP=squash, which leaves them out';

/**
 * Whatever was thrown while an entry was written, as an UnpackError that names it: LAYER_CORRUPT where no file system
 * could do what it asks for, LIMIT_EXCEEDED where it is too much for this one, and STORE_FULL or STORE_FAILED for all else that the
 * kernel says, since that is not the archive's fault.
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
  if (CANNOT_BE.has(errno)) return failure('LAYER_CORRUPT', ` asks for what cannot be done: ${message}`);
  const much = TOO_MUCH[errno];
  if (much !== undefined) return failure('LIMIT_EXCEEDED', ` ${much}: ${message}`);
  const host = toUnpackError(error);
  if (host.code !== 'INTERNAL') return failure(host.code, `: ${host.message}`);
  return failure('STORE_FAILED', `: ${message}; the kernel may log more (dmesg)`);
}

/** Outside of user namespaces there is no owner that the kernel doesn't take. */
function noSuchOwner(entry: TarEntry | undefined): string {
  return `the user namespace of this worker has no owner ${entry?.uid}:${entry?.gid}; run it with more IDs (/etc/subuid, /etc/subgid) or as root of the machine, or set UNPACK_OWNERSHIP=squash`;
}

/** A message that ends in a name from the archive, which may be long. */
const brief = (message: string): string => (message.length > 300 ? `${message.slice(0, 300)}…` : message);
