import { makeRoomIn } from '../../errno.ts';
import { UnpackError } from '../../errors.ts';
import { type GrpcCode, GrpcError } from '../../grpc/errors.ts';
import { SnapshotError, type SnapshotErrorKind } from '../snapshotter.ts';

/** Converts the errors of containerd's calls to those of a Snapshotter. */

const KINDS: Partial<Record<GrpcCode, SnapshotErrorKind>> = {
  NOT_FOUND: 'NotFound',
  ALREADY_EXISTS: 'AlreadyExists',
  INVALID_ARGUMENT: 'InvalidArgument',
  FAILED_PRECONDITION: 'FailedPrecondition',
};

/** What Go's errors of a full disk say. containerd has no code for them: it reports UNKNOWN. */
const FULL = /no space left on device|disk quota exceeded/;

/** What Go's errors of a disk with an error say, and containerd's database after one. */
const READ_ONLY = /read-only file system|database isn't correctly mapped|input\/output error/;

/** containerd's answers to a call that names a lease which is not there (core/metadata, leases.go). */
const NO_LEASE = /^lease (?:does not exist|"[^"]*"): /;

/** @returns a SnapshotError or an UnpackError for an error of a call; any other error unchanged */
export function storeError(thrown: unknown, socket: string): unknown {
  if (!(thrown instanceof GrpcError)) return thrown;
  const { code, details, method } = thrown;
  // a full disk can have any code, because containerd adds its own words to the kernel's
  if (FULL.test(details)) {
    return new UnpackError(
      'STORE_FULL',
      `containerd at ${socket}: ${details}; on the disk of its root, ${makeRoomIn('containerd')}`,
      {
        cause: thrown,
      },
    );
  }
  if (READ_ONLY.test(details)) {
    return failed(
      `containerd at ${socket} can't write to the disk of its root (${details}): see the kernel log (dmesg), run fsck, mount it read-write and restart containerd`,
    );
  }
  if (code === 'NOT_FOUND' && NO_LEASE.test(details)) {
    return failed(
      `the lease of this job in containerd at ${socket} was removed: look for a program that removes leases there`,
    );
  }
  const kind = KINDS[code];
  if (kind !== undefined) return new SnapshotError(kind, details);
  if (code === 'UNAVAILABLE' || code === 'CANCELLED') {
    return failed(`containerd at ${socket} does not answer (${details}): start it, or set UNPACK_CONTAINERD_SOCKET`);
  }
  if (code === 'DEADLINE_EXCEEDED') {
    return failed(
      `containerd at ${socket} has not answered ${method} in time: look whether it is containerd's socket, at its log, and at its disk`,
    );
  }
  return failed(`containerd at ${socket} refused ${method} (${code}: ${details}): look at its log`);

  function failed(message: string): UnpackError {
    return new UnpackError('STORE_FAILED', message, { cause: thrown });
  }
}

/** Runs calls of containerd. @throws as `storeError` converts the error */
export async function converted<T>(socket: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw storeError(error, socket);
  }
}
