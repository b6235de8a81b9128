import { UnpackError } from '../errors.ts';

export type SnapshotErrorKind = 'NotFound' | 'AlreadyExists' | 'InvalidArgument' | 'FailedPrecondition';

/** Why a call on the store was refused, after containerd's errdefs. What the machine is to blame for is an UnpackError. */
export class SnapshotError extends Error {
  override readonly name = 'SnapshotError';
  readonly kind: SnapshotErrorKind;

  constructor(kind: SnapshotErrorKind, message: string) {
    super(message);
    this.kind = kind;
  }
}

export function isSnapshotError(thrown: unknown, kind: SnapshotErrorKind): thrown is SnapshotError {
  return thrown instanceof SnapshotError && thrown.kind === kind;
}

/** The store was there when it was opened. */
export function storeGone(path: string, cause: unknown): UnpackError {
  return new UnpackError(
    'STORE_FAILED',
    `${path} is not there any more; is its disk not mounted? Mount it, or restore the store, and restart the worker`,
    { cause },
  );
}
