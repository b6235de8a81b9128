/** The statuses of gRPC, and the error of a call that ended with one. The client throws it; a server answers with a code. */

/** gRPC's status codes by number (grpc, statuscodes). */
const CODES = [
  'OK',
  'CANCELLED',
  'UNKNOWN',
  'INVALID_ARGUMENT',
  'DEADLINE_EXCEEDED',
  'NOT_FOUND',
  'ALREADY_EXISTS',
  'PERMISSION_DENIED',
  'RESOURCE_EXHAUSTED',
  'FAILED_PRECONDITION',
  'ABORTED',
  'OUT_OF_RANGE',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DATA_LOSS',
  'UNAUTHENTICATED',
] as const;

export type GrpcCode = (typeof CODES)[number];

/** The name of a status code; `UNKNOWN` for a number that gRPC does not define. */
export function codeOf(status: number): GrpcCode {
  return CODES[status] ?? 'UNKNOWN';
}

/** The number of a status code, as it is sent. */
export function statusOf(code: GrpcCode): number {
  return CODES.indexOf(code);
}

/** A call that did not end with OK. */
export class GrpcError extends Error {
  override readonly name = 'GrpcError';
  readonly code: GrpcCode;
  /** What the server, or the connection, gives as the reason. */
  readonly details: string;
  /** Such as `/containerd.services.snapshots.v1.Snapshots/Stat`. */
  readonly method: string;

  constructor(method: string, code: GrpcCode, details: string, options: ErrorOptions = {}) {
    super(`${method}: ${code}: ${details}`, options);
    this.method = method;
    this.code = code;
    this.details = details;
  }
}

/** For calls that ask for something that is possibly not there. @throws any error but NOT_FOUND */
export function undefinedIfNotFound(thrown: unknown): undefined {
  if (!isGrpcError(thrown, 'NOT_FOUND')) throw thrown;
  return undefined;
}

export function isGrpcError(thrown: unknown, ...codes: readonly GrpcCode[]): thrown is GrpcError {
  return thrown instanceof GrpcError && codes.includes(thrown.code);
}
