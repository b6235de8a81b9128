import { errnoOf, HOST_ERRNO, systemMessage } from './errno.ts';
import { maskSecrets } from './secrets.ts';

/**
 * The failure codes of jobs, and whether each is retried: never, once with a fresh download, or up to the job's attempts.
 * Both come from the job contract. The queue, the command line and the board all read this table.
 */
export const FAILURE_CODES = {
  INVALID_JOB: 'never',
  UNSUPPORTED_MEDIA_TYPE: 'never',
  MANIFEST_INVALID: 'never',
  PLATFORM_NOT_FOUND: 'never',
  SOURCE_NOT_ALLOWED: 'never',
  IMAGE_NOT_FOUND: 'always',
  BLOB_NOT_FOUND: 'always',
  BLOB_DIGEST_MISMATCH: 'once',
  BLOB_SIZE_MISMATCH: 'once',
  LAYER_CORRUPT: 'once',
  DIFF_ID_MISMATCH: 'never',
  LAYER_UNSAFE: 'never',
  LIMIT_EXCEEDED: 'never',
  SOURCE_UNAVAILABLE: 'always',
  SOURCE_DENIED: 'always',
  STORE_FULL: 'always',
  STORE_FAILED: 'always',
  TIMED_OUT: 'always',
  SHUTTING_DOWN: 'always',
  STALLED: 'always',
  CANCELLED: 'never',
  INTERNAL: 'always',
} as const satisfies Record<string, 'never' | 'once' | 'always'>;

export type FailureCode = keyof typeof FAILURE_CODES;

/** The layer and the digests of a failure. Unknown fields are absent. */
export interface FailureDetails {
  /** Position of the layer, bottom-most first, counted from 0. */
  readonly layerIndex?: number;
  readonly layerCount?: number;
  /** The digest of the blob, manifest or layer. */
  readonly digest?: string;
  readonly expected?: string;
  readonly actual?: string;
  readonly chainId?: string;
}

export interface UnpackErrorOptions extends ErrorOptions {
  readonly details?: FailureDetails;
}

/** An UnpackError as a plain object, for messages between threads. */
export interface SerializedUnpackError {
  readonly code: FailureCode;
  readonly message: string;
  readonly details: FailureDetails;
  readonly stack?: string;
}

/**
 * The failure of a job. `code` is for programs. `message` is for people: what failed, where, and what to do about it. Never
 * match on its text.
 */
export class UnpackError extends Error {
  override readonly name = 'UnpackError';
  readonly code: FailureCode;
  readonly details: FailureDetails;

  constructor(code: FailureCode, message: string, options: UnpackErrorOptions = {}) {
    super(plain(message), 'cause' in options ? { cause: options.cause } : undefined);
    this.code = code;
    this.details = options.details ?? {};
  }

  /** Whether another attempt can succeed; `once`: after one fresh download. */
  get retry(): 'never' | 'once' | 'always' {
    return FAILURE_CODES[this.code];
  }

  serialize(): SerializedUnpackError {
    return {
      code: this.code,
      message: this.message,
      details: this.details,
      ...(this.stack === undefined ? {} : { stack: this.stack }),
    };
  }

  static deserialize(plain: SerializedUnpackError): UnpackError {
    const error = new UnpackError(plain.code, plain.message, { details: plain.details });
    if (plain.stack !== undefined) error.stack = plain.stack;
    return error;
  }

  /** The same failure with more details. Details that are already set are kept. */
  with(details: FailureDetails, prefix = '', suffix = ''): UnpackError {
    const error = new UnpackError(this.code, `${prefix}${this.message}${suffix}`, {
      details: { ...details, ...this.details },
      cause: this.cause ?? this,
    });
    if (this.stack !== undefined) error.stack = this.stack;
    return error;
  }
}

/** Maximum number of characters of a message. Redis keeps a message for every failed attempt. */
const MAX_MESSAGE = 2000;
/** C0 and C1 control characters, which control a terminal, and marks that change the direction of text. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: the expression matches control characters
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/**
 * Makes a message safe to print. A message can quote archives, manifests and servers, so control characters are
 * escaped, secrets masked, and its length is limited.
 */
export function plain(message: string): string {
  const escaped = maskSecrets(message).replace(CONTROLS, (sign) =>
    sign === '\n' ? ' ' : `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return escaped.length > MAX_MESSAGE ? `${escaped.slice(0, MAX_MESSAGE)}…` : escaped;
}

/** Converts any thrown value: faults of the machine by their errno, all else to INTERNAL. */
export function toUnpackError(thrown: unknown): UnpackError {
  if (thrown instanceof UnpackError) return thrown;
  if (thrown instanceof Error) {
    const host = HOST_ERRNO[errnoOf(thrown) ?? ''];
    if (host !== undefined) {
      const code = host.full ? 'STORE_FULL' : 'STORE_FAILED';
      return new UnpackError(code, `${systemMessage(thrown)}; ${host.advice}`, { cause: thrown });
    }
    return new UnpackError('INTERNAL', `unexpected error: ${thrown.message}`, { cause: thrown });
  }
  return new UnpackError('INTERNAL', `unexpected error: ${String(thrown)}`, { cause: thrown });
}

/** Throws `abortError(signal)` if the signal is aborted. Call it between steps. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal);
}

/**
 * Converts the reason of an aborted signal. The reason of `AbortSignal.timeout` becomes TIMED_OUT. A reason without a
 * code becomes INTERNAL, which is retried: only an explicit CANCELLED fails a job for good.
 */
export function abortError(signal: AbortSignal): UnpackError {
  const reason: unknown = signal.reason;
  if (reason instanceof UnpackError) return reason;
  if (reason instanceof DOMException && reason.name === 'TimeoutError') {
    return new UnpackError('TIMED_OUT', 'the work exceeded its time limit', { cause: reason });
  }
  if (reason instanceof Error && errnoOf(reason) !== undefined) return toUnpackError(reason);
  const why = reason instanceof Error ? reason.message : typeof reason === 'string' ? reason : 'no reason given';
  return new UnpackError('INTERNAL', `the work was aborted: ${why}`, { cause: reason });
}

/** A setting is wrong. `message` has its name, the fault, and what to write. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}
