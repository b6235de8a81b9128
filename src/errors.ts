import { errnoOf, HOST_ERRNO, systemMessage } from './errno.ts';
import { maskSecrets } from './secrets.ts';

/**
 * Every way a job can fail, as producers see it. The list and the retry column come from the job contract; what is
 * retried is decided here once, so that the queue, the command line and the board agree.
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

/** What a failure is about; every field is optional because a failure can come before it is known. */
export interface FailureDetails {
  /** Position of the layer, bottom-most first, counted from 0. */
  readonly layerIndex?: number;
  readonly layerCount?: number;
  /** The digest of the blob, manifest or layer in question, as text. */
  readonly digest?: string;
  readonly expected?: string;
  readonly actual?: string;
  readonly chainId?: string;
}

export interface UnpackErrorOptions extends ErrorOptions {
  readonly details?: FailureDetails;
}

/** A plain copy of an UnpackError that survives a thread boundary. */
export interface SerializedUnpackError {
  readonly code: FailureCode;
  readonly message: string;
  readonly details: FailureDetails;
  readonly stack?: string;
}

/**
 * The one error class of unpackd. `message` is a sentence that says what, where and, if the reader can do something,
 * what to do; `code` is for programs. Nobody matches on the text.
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

  /** Whether another attempt can help: `once` means one more fresh download. */
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

  /** The same failure with more known about it; the fields already set win. */
  with(details: FailureDetails, prefix = ''): UnpackError {
    const error = new UnpackError(this.code, `${prefix}${this.message}`, {
      details: { ...details, ...this.details },
      cause: this.cause ?? this,
    });
    if (this.stack !== undefined) error.stack = this.stack;
    return error;
  }
}

/** Longest message, in characters: it is kept in Redis, for every failed attempt. */
const LONGEST = 2000;
/** C0 and C1 controls, which a terminal obeys, and marks that turn the direction of what follows. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** What is quoted in a message comes from archives, manifests and servers: it is shown, and steers nothing. Secrets are not. */
export function plain(message: string): string {
  const escaped = maskSecrets(message).replace(CONTROLS, (sign) =>
    sign === '\n' ? ' ' : `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return escaped.length > LONGEST ? `${escaped.slice(0, LONGEST)}…` : escaped;
}

/** Any thrown value as an UnpackError: system errors by their errno, aborts by their reason, the rest as INTERNAL. */
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

/** Throws the signal's reason as an UnpackError, see `abortError`. Call it between steps. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal);
}

/**
 * The error that an aborted signal stands for: what its reason says. `AbortSignal.timeout` means TIMED_OUT. A reason that
 * says nothing is INTERNAL, which is retried: only who cancels a job may end it for good, and says so.
 */
export function abortError(signal: AbortSignal): UnpackError {
  const reason: unknown = signal.reason;
  if (reason instanceof UnpackError) return reason;
  if (reason instanceof DOMException && reason.name === 'TimeoutError') {
    return new UnpackError('TIMED_OUT', 'the work took longer than it may', { cause: reason });
  }
  if (reason instanceof Error && errnoOf(reason) !== undefined) return toUnpackError(reason);
  const why = reason instanceof Error ? reason.message : typeof reason === 'string' ? reason : 'no reason given';
  return new UnpackError('INTERNAL', `the work was given up: ${why}`, { cause: reason });
}
