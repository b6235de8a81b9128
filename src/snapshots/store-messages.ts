import { type SerializedUnpackError, UnpackError } from '../errors.ts';
import { SnapshotError, type SnapshotErrorKind } from './snapshotter.ts';
import type { OwnStore } from './store.ts';

/**
 * The messages between store-thread.ts and workers/store.ts: some properties and the methods of a Store, except `lease`,
 * whose result has methods, `under`, and what our own store does not need.
 */
export type StoreFacts = Pick<OwnStore, 'root' | 'type' | 'rebase' | 'durable' | 'ownership' | 'overlayXattrs'>;
/** The same for all stores that the thread opens. */
type Fixed = 'state' | 'extraction' | 'marked' | 'collectedBy';
export type StoreMethod = Exclude<
  keyof OwnStore,
  keyof StoreFacts | Fixed | 'lease' | 'under' | 'keepDocuments' | 'checkReference' | 'namesOf'
>;

/** A call for the store's thread. Each call has its own `id`. `close` is the last call. */
export type StoreCall = {
  readonly [Method in StoreMethod]: {
    readonly id: number;
    readonly method: Method;
    readonly args: Parameters<OwnStore[Method]>;
  };
}[StoreMethod];

/** The thread's answers: first `open` or `refused`, then one answer to each call, in any order. */
export type StoreAnswer =
  | { readonly open: StoreFacts }
  | { readonly refused: SerializedError }
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: SerializedError };

/** An error as a plain object. A message between threads loses the class of an error and the fields of Node and SQLite. */
export type SerializedError = (
  | { readonly unpack: SerializedUnpackError }
  | { readonly snapshot: { readonly kind: SnapshotErrorKind; readonly message: string } }
  | { readonly other: PlainError }
) & { readonly cause?: SerializedError };

/** The fields that identify errors of Node (`code`, `errno`) and of SQLite (`errcode`). */
interface PlainError {
  readonly message: string;
  readonly stack?: string | undefined;
  readonly code?: unknown;
  readonly errno?: unknown;
  readonly errcode?: unknown;
}

/** Maximum length of a chain of causes. */
const MOST_CAUSES = 8;

export function serializeError(thrown: unknown, depth = 0): SerializedError {
  const error: SerializedError =
    thrown instanceof UnpackError
      ? { unpack: thrown.serialize() }
      : thrown instanceof SnapshotError
        ? { snapshot: { kind: thrown.kind, message: thrown.message } }
        : { other: plainError(thrown) };
  if (!(thrown instanceof Error) || thrown.cause === undefined || depth === MOST_CAUSES) return error;
  return { ...error, cause: serializeError(thrown.cause, depth + 1) };
}

function plainError(thrown: unknown): PlainError {
  if (!(thrown instanceof Error)) return { message: String(thrown) };
  const { message, stack, code, errno, errcode }: PlainError = thrown;
  return {
    message,
    stack,
    ...(code === undefined ? {} : { code }),
    ...(errno === undefined ? {} : { errno }),
    ...(errcode === undefined ? {} : { errcode }),
  };
}

/** Restores the error with its class, its causes and their codes. */
export function deserializeError(serialized: SerializedError): Error {
  const error = withClass(serialized);
  if (serialized.cause !== undefined) {
    const value = deserializeError(serialized.cause);
    Object.defineProperty(error, 'cause', { value, writable: true, configurable: true });
  }
  return error;
}

function withClass(error: SerializedError): Error {
  if ('unpack' in error) return UnpackError.deserialize(error.unpack);
  if ('snapshot' in error) return new SnapshotError(error.snapshot.kind, error.snapshot.message);
  const { message, ...fields } = error.other;
  return Object.assign(new Error(message), fields);
}
