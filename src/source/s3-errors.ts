import { type FailureCode, type FailureDetails, UnpackError } from '../errors.ts';

/** What was asked for when a request failed. */
export interface S3Request {
  readonly bucket: string;
  /** Absent when the request is about the bucket. */
  readonly key?: string;
  readonly endpoint: string | undefined;
  /** What a missing key means: a blob, or what names an image (a tag's link, an index). */
  readonly missing: 'BLOB_NOT_FOUND' | 'IMAGE_NOT_FOUND';
  readonly digest?: string;
}

/** S3's error codes that mean "try again", whatever their status (S3 API reference, "Error responses"). */
const TRANSIENT = new Set([
  'InternalError',
  'OperationAborted',
  'RequestTimeout',
  'ServiceUnavailable',
  'SlowDown',
  'Throttling',
  'ThrottlingException',
  'TooManyRequests',
]);

/** Network errors by the code that Node gives them, in a person's words. */
const NETWORK: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing listens there (connection refused)',
  ECONNRESET: 'the connection was reset',
  EAI_AGAIN: 'its name could not be resolved for now',
  EMFILE: 'this worker has too many open files; raise its limit (ulimit -n, LimitNOFILE)',
  ENOTFOUND: 'its name does not resolve',
  EPIPE: 'the connection was closed',
  ETIMEDOUT: 'it did not answer in time',
};

/** Where an S3 request went, as messages say it: `s3://bucket/key`, with the endpoint unless it is Amazon's. */
export function s3Location(request: Pick<S3Request, 'bucket' | 'key' | 'endpoint'>): string {
  const path = request.key === undefined ? '' : `/${request.key}`;
  return `s3://${request.bucket}${path}${request.endpoint === undefined ? '' : ` at ${request.endpoint}`}`;
}

/**
 * What the AWS SDK threw, as one of our failures with a sentence that names bucket and key. A missing bucket counts as
 * a missing image: the contract has no code of its own for it, and like the image it may yet be made. A refused request
 * that no repetition can help (a wrong region, an expired token) is SOURCE_DENIED.
 */
export function s3Error(thrown: unknown, request: S3Request): UnpackError {
  const { name, status, errno, message } = facts(thrown);
  const where = s3Location(request);
  const details: FailureDetails = request.digest === undefined ? {} : { digest: request.digest };
  const failure = (code: FailureCode, sentence: string) => new UnpackError(code, sentence, { cause: thrown, details });

  if (name === 'NoSuchBucket') {
    const bucket = s3Location({ bucket: request.bucket, endpoint: request.endpoint });
    return failure('IMAGE_NOT_FOUND', `there is no bucket ${bucket}; check the job's bucket and the worker's endpoint`);
  }
  if (status === 404)
    return failure(request.missing, `${where} does not exist; has the image been uploaded completely?`);
  if (status === 412) {
    return failure('BLOB_DIGEST_MISMATCH', `${where} was replaced while it was read`);
  }
  if (status === 416) return failure('BLOB_SIZE_MISMATCH', `${where} is shorter than it should be; upload it again`);
  if (TRANSIENT.has(name) || (status !== undefined && (status >= 500 || status === 429 || status === 409))) {
    return failure('SOURCE_UNAVAILABLE', `${where}: S3 answered ${status ?? 'an error'} ${name} (${message})`);
  }
  if (status === 403 || status === 401) {
    return failure(
      'SOURCE_DENIED',
      `${where}: S3 denied the access (${status} ${name}: ${message}); it says so too for a missing key when the worker may not list the bucket`,
    );
  }
  if (status === 301 || status === 307) {
    return failure('SOURCE_DENIED', `${where}: the bucket is in another region (${status} ${name}); set AWS_REGION`);
  }
  if (status !== undefined && status >= 400) {
    return failure('SOURCE_DENIED', `${where}: S3 refused the request (${status} ${name}: ${message})`);
  }
  if (name === 'CredentialsProviderError' || name === 'TokenProviderError') {
    return failure('SOURCE_DENIED', `${where}: no credentials for S3 (${message}); set AWS_ACCESS_KEY_ID or a role`);
  }
  const why = NETWORK[errno ?? ''] ?? message;
  return failure('SOURCE_UNAVAILABLE', `${where}: S3 can't be reached: ${why}`);
}

/** A refused request without the SDK, by its status and what its answer says (an error document of S3, or anything). */
export function s3Refusal(status: number, reason: string, text: string, request: S3Request): UnpackError {
  const tag = (name: string): string | undefined => new RegExp(`<${name}>([^<]{0,500})</${name}>`).exec(text)?.[1];
  const thrown = Object.assign(new Error(tag('Message') ?? (reason === '' ? 'no reason given' : reason)), {
    name: tag('Code') ?? '',
    $metadata: { httpStatusCode: status },
  });
  return s3Error(thrown, request);
}

function facts(thrown: unknown): {
  name: string;
  status: number | undefined;
  errno: string | undefined;
  message: string;
} {
  if (!(thrown instanceof Error)) return { name: '', status: undefined, errno: undefined, message: String(thrown) };
  const { code, $metadata, $response } = thrown as Error & {
    // the SDK adds these to what it throws; a body that isn't XML leaves only the response
    code?: unknown;
    $metadata?: { httpStatusCode?: number };
    $response?: { statusCode?: number };
  };
  return {
    name: thrown.name,
    status: $metadata?.httpStatusCode ?? $response?.statusCode,
    errno: typeof code === 'string' ? code : undefined,
    message: thrown.message,
  };
}
