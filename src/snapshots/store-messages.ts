import { type SerializedUnpackError, UnpackError } from '../errors.ts';
import { SnapshotError, type SnapshotErrorKind, type Snapshotter } from './snapshotter.ts';

/** What a snapshotter says of itself, and what it can be asked. */
export type StoreFacts = Pick<Snapshotter, 'root' | 'type' | 'rebase' | 'ownership' | 'overlayXattrs'>;
export type StoreMethod = Exclude<keyof Snapshotter, keyof StoreFacts>;

/** What the store's thread is told: one call after the other, each with a number of its own. `close` is the last. */
export type StoreCall = {
  readonly [Method in StoreMethod]: {
    readonly id: number;
    readonly method: Method;
    readonly args: Parameters<Snapshotter[Method]>;
  };
}[StoreMethod];

/** What it answers: first that the store is open or why not, then each call once, in any order. */
export type StoreAnswer =
  | { readonly open: StoreFacts }
  | { readonly refused: SerializedError }
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: SerializedError };

/** An error on its way between threads, where classes and what Node and SQLite add to an error do not survive. */
export type SerializedError = (
  | { readonly unpack: SerializedUnpackError }
  | { readonly snapshot: { readonly kind: SnapshotErrorKind; readonly message: string } }
  | { readonly other: PlainError }
) & { readonly cause?: SerializedError };

/** The fields by which errors of Node (`code`, `errno`) and of SQLite (`errcode`) are told apart. */
interface PlainError {
  readonly message: string;
  readonly stack?: string | undefined;
  readonly code?: unknown;
  readonly errno?: unknown;
  readonly errcode?: unknown;
}

/** Causes that are kept below an error; none has as many. */
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

/** The error with its class, its causes and their codes again. */
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
