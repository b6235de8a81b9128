import { constants } from 'node:os';
import { errnoFacts } from '../errno.ts';

/** The errors of a tree in memory. They are those that the kernel gives for the same call on a file system. */
export type KernelErrorCode =
  | 'E2BIG'
  | 'EACCES'
  | 'EEXIST'
  | 'EINVAL'
  | 'EISDIR'
  | 'ENAMETOOLONG'
  | 'ENOENT'
  | 'ENOSPC'
  | 'ENOTDIR'
  | 'EOPNOTSUPP'
  | 'EPERM'
  | 'ERANGE'
  | 'EROFS';

/** A system error with the fields of `systemError`. @param name a C string */
export function kernelError(code: KernelErrorCode, syscall: string, name?: Buffer): NodeJS.ErrnoException {
  const errno = constants.errno[code];
  const { name: known, text } = errnoFacts(errno);
  const path = name?.toString('utf8', 0, name.length - 1);
  const where = path === undefined ? '' : ` ${JSON.stringify(path)}`;
  return Object.assign(new Error(`${known}: ${text}, ${syscall}${where}`), {
    errno: -errno,
    code: known,
    syscall,
    ...(path === undefined ? {} : { path }),
  });
}
