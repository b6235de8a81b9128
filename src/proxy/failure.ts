import { type FailureCode, toUnpackError } from '../errors.ts';
import type { GrpcCode } from '../grpc/errors.ts';
import type { Failure } from '../grpc/server.ts';
import { SnapshotError, type SnapshotErrorKind } from '../snapshots/snapshotter.ts';

/** What containerd is told when a call of the store has failed. It tests the code, and logs the sentence. */

const OF_KINDS: Readonly<Record<SnapshotErrorKind, GrpcCode>> = {
  NotFound: 'NOT_FOUND',
  AlreadyExists: 'ALREADY_EXISTS',
  InvalidArgument: 'INVALID_ARGUMENT',
  FailedPrecondition: 'FAILED_PRECONDITION',
};

/** A failure that ends by itself, or when somebody has repaired the machine, is UNAVAILABLE: the caller may try again. */
const OF_CODES: Partial<Record<FailureCode, GrpcCode>> = {
  STORE_FULL: 'RESOURCE_EXHAUSTED',
  STORE_FAILED: 'UNAVAILABLE',
  SHUTTING_DOWN: 'UNAVAILABLE',
};

/** The status of a call that has thrown. */
export function failureOf(thrown: unknown): Failure {
  if (thrown instanceof SnapshotError) return { code: OF_KINDS[thrown.kind], details: `unpackd: ${thrown.message}` };
  const { code, message } = toUnpackError(thrown);
  return { code: OF_CODES[code] ?? 'INTERNAL', details: `unpackd: ${message}` };
}
