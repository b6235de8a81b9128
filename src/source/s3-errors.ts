import { type FailureCode, type FailureDetails, UnpackError } from '../errors.ts';
import { authority, type HttpProxy, proxyName, serverOf } from '../http/proxy.ts';
import { ProxyError, refusedBy, UNTRUSTED_CODES } from '../http/tunnel.ts';
import { type S3SettingNames, USUAL_SETTINGS } from './setting-names.ts';

/** The object or bucket of a failed request, for messages. */
export interface S3Request {
  readonly bucket: string;
  /** Absent if the request was for the bucket. */
  readonly key?: string;
  readonly endpoint: string | undefined;
  /** The code for a missing key: of a blob, or of a file with the digests of images (a tag's link, an index). */
  readonly missing: 'BLOB_NOT_FOUND' | 'IMAGE_NOT_FOUND';
  readonly digest?: string;
  /** Where the values of the connection come from. Default: the usual settings. */
  readonly settings?: S3SettingNames | undefined;
  /** The proxy that the request goes through. */
  readonly proxy?: HttpProxy | undefined;
}

/** The refusal of a signed URL by the server, if a new URL can help. */
export interface SignatureRefusal {
  /** `moved`: to another URL or region. `denied`: the signature or its credentials are no longer valid. */
  readonly why: 'moved' | 'denied';
  /** For messages: `307 TemporaryRedirect`. */
  readonly answer: string;
  /** An absolute URL. */
  readonly location?: string | undefined;
  readonly region?: string | undefined;
  /** The server's clock, in milliseconds since 1970. */
  readonly date?: number | undefined;
}

/** An error response. */
export interface Refused {
  readonly status: number;
  readonly reason: string;
  /** The body: an error document of S3, or anything else. */
  readonly text: string;
  readonly headers: ReadonlyMap<string, string>;
}

/** S3's error codes that mean "try again", with any status (S3 API reference, "Error responses"). */
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

/** Sentences for network errors, by Node's code. */
const NETWORK: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing listens there (connection refused)',
  ECONNRESET: 'the connection was reset',
  EAI_AGAIN: 'its name could not be resolved for now',
  EMFILE: 'this worker has too many open files; raise its limit (ulimit -n, LimitNOFILE)',
  ENOTFOUND: 'its name does not resolve',
  EPIPE: 'the connection was closed',
  ETIMEDOUT: 'it did not answer in time',
  CERT_HAS_EXPIRED: 'its certificate has expired',
  CERT_NOT_YET_VALID: 'its certificate is not valid yet; check the clock of this machine',
};
/** OpenSSL's errors for a server that answers without TLS, by Node's names. */
const NO_TLS = new Set(['EPROTO', 'ERR_SSL_WRONG_VERSION_NUMBER', 'ERR_SSL_PACKET_LENGTH_TOO_LONG']);

/** Why a connection to S3 has failed, with what to correct. */
function networkReason(code: string, message: string, names: S3SettingNames): string {
  if (NO_TLS.has(code))
    return `it does not speak TLS; should ${names.endpoint} begin with http:// instead of https://?`;
  if (UNTRUSTED_CODES.has(code)) {
    return `its certificate is signed by an unknown CA; set NODE_EXTRA_CA_CERTS or ${names.caBundle} to a PEM file with the certificate of the CA, and restart`;
  }
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return `its certificate is for another name; correct ${names.endpoint}, or set ${names.pathStyle} to true if the certificate does not cover host names with the bucket`;
  }
  return NETWORK[code] ?? message;
}

/** The object of a request, for messages: `s3://bucket/key`, with the endpoint unless it is Amazon's. */
export function s3Location(request: Pick<S3Request, 'bucket' | 'key' | 'endpoint'>): string {
  const path = request.key === undefined ? '' : `/${request.key}`;
  return `s3://${request.bucket}${path}${request.endpoint === undefined ? '' : ` at ${request.endpoint}`}`;
}

/**
 * The failure for an error of the AWS SDK or of the network. The message contains bucket and key. A missing bucket is
 * IMAGE_NOT_FOUND, because the job contract has no code for it, and because a missing bucket, like a missing image, can
 * be created later. A refused request is SOURCE_DENIED if a retry cannot help, for example after a wrong region or an
 * expired token.
 */
export function s3Error(thrown: unknown, request: S3Request): UnpackError {
  const { name, status, errno, message, region } = facts(thrown);
  const names = request.settings ?? USUAL_SETTINGS;
  const where = s3Location(request);
  const details: FailureDetails = request.digest === undefined ? {} : { digest: request.digest };
  const failure = (code: FailureCode, sentence: string) => new UnpackError(code, sentence, { cause: thrown, details });

  const proxyError = causeOf(thrown, ProxyError);
  if (proxyError !== undefined) {
    return failure(proxyError.final ? 'SOURCE_DENIED' : 'SOURCE_UNAVAILABLE', `${where}: ${proxyError.message}`);
  }
  if (name === 'NoSuchBucket') {
    const bucket = s3Location({ bucket: request.bucket, endpoint: request.endpoint });
    return failure('IMAGE_NOT_FOUND', `there is no bucket ${bucket}; check the job's bucket and ${names.endpoint}`);
  }
  if (status === 404) {
    // S3 has a code for it; without one, the SDK calls it NotFound
    return name === '' || name === 'NotFound'
      ? failure(
          request.missing,
          `${where} does not exist (404 without an error of S3); check ${names.endpoint} and the key`,
        )
      : failure(request.missing, `${where} does not exist; check that the upload of the image is complete`);
  }
  if (status === 412) {
    return failure('BLOB_DIGEST_MISMATCH', `${where} was replaced while it was read`);
  }
  if (status === 416) return failure('BLOB_SIZE_MISMATCH', `${where} is shorter than it should be; upload it again`);
  if (TRANSIENT.has(name) || (status !== undefined && (status >= 500 || status === 429 || status === 409))) {
    return failure('SOURCE_UNAVAILABLE', `${where}: S3 answered ${status ?? 'an error'} ${name} (${message})`);
  }
  if (status !== undefined && ((status >= 300 && status < 400 && status !== 304) || (ELSEWHERE.has(name) && region))) {
    return movedError(request, { answer: `${status} ${name}`.trim(), region }, thrown);
  }
  if (name === 'RequestTimeTooSkewed') {
    return failure(
      'SOURCE_DENIED',
      `${where}: S3 refused the time of the request (${status} ${name}: ${message}); correct the clock of this machine`,
    );
  }
  if (OF_CREDENTIALS.has(name)) {
    return failure(
      'SOURCE_DENIED',
      `${where}: S3 denied access (${status} ${name}: ${message}); correct ${names.credentials}`,
    );
  }
  if (status === 400 && name === '' && request.endpoint?.startsWith('http://') === true) {
    const sentence = `the server answered 400 without an error of S3 (${message})`;
    return failure(
      'SOURCE_DENIED',
      `${where}: ${sentence}; should ${names.endpoint} begin with https:// instead of http://?`,
    );
  }
  if (status === 403 || status === 401) {
    return failure(
      'SOURCE_DENIED',
      `${where}: S3 denied access (${status} ${name}: ${message}); if the worker has no permission to list the bucket, S3 gives the same answer for a missing key`,
    );
  }
  if (status !== undefined && status >= 400) {
    return failure('SOURCE_DENIED', `${where}: S3 refused the request (${status} ${name}: ${message})`);
  }
  if (name === 'CredentialsProviderError' || name === 'TokenProviderError') {
    return failure(
      'SOURCE_DENIED',
      `${where}: no credentials for S3 (${message}); set ${names.credentials}, or give the machine a role`,
    );
  }
  if (status !== undefined) {
    return failure(
      'SOURCE_UNAVAILABLE',
      `${where}: S3 answered ${status} ${name}, which is not a valid answer to a read (${message})`,
    );
  }
  const why = networkReason(errno ?? '', message, names);
  const through = request.proxy === undefined ? '' : ` through ${proxyName(request.proxy)}`;
  return failure('SOURCE_UNAVAILABLE', `${where}: S3 can't be reached${through}: ${why}`);
}

/** The failure for a redirection that is not followed, with advice on how to avoid it. */
export function movedError(
  request: S3Request,
  { answer, location, region }: Pick<SignatureRefusal, 'answer' | 'location' | 'region'>,
  cause?: unknown,
): UnpackError {
  const where = s3Location(request);
  const names = request.settings ?? USUAL_SETTINGS;
  const details: FailureDetails = request.digest === undefined ? {} : { digest: request.digest };
  // a login page or a proxy can answer with 302 or 303 for a while; S3 itself redirects with 301, 307 and 308
  const code = /^30[23]/.test(answer) ? 'SOURCE_UNAVAILABLE' : 'SOURCE_DENIED';
  const fail = (sentence: string) => new UnpackError(code, `${where}: ${sentence}`, { cause, details });
  if (region !== undefined) {
    return fail(`the bucket is in the region ${region} (${answer}); set ${names.region} to ${region}`);
  }
  if (location !== undefined) {
    const host = URL.canParse(location) ? new URL(location).host : location;
    return fail(
      `S3 redirects to ${host} (${answer}), another host, and signed requests do not go there; if the bucket is there, correct ${names.endpoint} or ${names.region}`,
    );
  }
  return fail(
    /^30[17]/.test(answer)
      ? `the bucket is in another region (${answer}); correct ${names.region}`
      : `S3 redirects without a target (${answer}); check ${names.endpoint} and ${names.region}`,
  );
}

/** The failure for an error response, from its status and its error document. */
export function s3Refusal(refused: Refused, request: S3Request): UnpackError {
  const { status, reason, text } = refused;
  const moved = refusalOf(refused, false);
  if (moved?.why === 'moved') return movedError(request, moved);
  if (isAnswerOfProxy(refused, request)) {
    return s3Error(refusedBy(request.proxy, authorityOf(request.endpoint), refused), request);
  }
  const message = tagIn(text, 'Message') ?? (reason === '' ? 'no reason given' : reason);
  const thrown = Object.assign(new Error(message), {
    name: tagIn(text, 'Code') ?? '',
    $metadata: { httpStatusCode: status },
  });
  return s3Error(thrown, request);
}

/** Statuses with which a proxy answers itself. */
const STATUSES_OF_PROXIES = new Set([401, 403, 405, 407, 500, 502, 503, 504]);

/** Whether a proxy without a tunnel has answered instead of the server: S3's own refusals have a code. */
function isAnswerOfProxy({ status, text }: Refused, request: S3Request): request is S3Request & { proxy: HttpProxy } {
  if (request.proxy === undefined || request.endpoint?.startsWith('http://') !== true) return false;
  return status === 407 || (STATUSES_OF_PROXIES.has(status) && text !== '' && tagIn(text, 'Code') === undefined);
}

function authorityOf(endpoint: string | undefined): string {
  if (endpoint === undefined) return 'S3';
  const { host, port } = serverOf(new URL(endpoint));
  return authority(host, port);
}

/** S3's error codes for a signature for another region. */
const ELSEWHERE = new Set([
  'AuthorizationHeaderMalformed',
  'AuthorizationQueryParametersError',
  'IllegalLocationConstraintException',
]);
/** S3's error codes for credentials that do not exist, or no longer. */
export const OF_CREDENTIALS: ReadonlySet<string> = new Set([
  'ExpiredToken',
  'InvalidAccessKeyId',
  'InvalidToken',
  'SignatureDoesNotMatch',
  'TokenRefreshRequired',
]);
/**
 * S3's error codes for three cases: the signature has expired, the credentials are no longer valid, the clock of this
 * machine is wrong.
 */
const ENDED = new Set([...OF_CREDENTIALS, 'RequestExpired', 'RequestTimeTooSkewed']);

/**
 * Whether a new signature can help after an error response, and which one.
 * @param read whether an earlier read of the object succeeded. If so, missing permissions are not the reason.
 */
export function refusalOf({ status, text, headers }: Refused, read: boolean): SignatureRefusal | undefined {
  const code = tagIn(text, 'Code') ?? '';
  const region = headers.get('x-amz-bucket-region') ?? tagIn(text, 'Region');
  const location = headers.get('location');
  const answer = `${status} ${code}`.trim();
  const redirects = status >= 300 && status < 400 && status !== 304;
  if ((redirects && (location ?? region) !== undefined) || (ELSEWHERE.has(code) && region !== undefined)) {
    return { why: 'moved', answer, location, region };
  }
  // S3 refuses a signed URL of a wrong clock with AccessDenied and one of these messages
  const expired = /expired|not (yet )?valid/i.test(tagIn(text, 'Message') ?? '');
  if (status !== 400 && status !== 401 && status !== 403) return undefined;
  if (!ENDED.has(code) && !expired && !(read && status !== 400)) return undefined;
  const date =
    code === 'RequestTimeTooSkewed' || code === 'RequestExpired' || (code === 'AccessDenied' && expired)
      ? Date.parse(headers.get('date') ?? '')
      : Number.NaN;
  return { why: 'denied', answer, ...(Number.isNaN(date) ? {} : { date }) };
}

/** The first error of this class among an error and its causes. */
function causeOf<T extends Error>(thrown: unknown, kind: new (...args: never[]) => T): T | undefined {
  for (let error = thrown; error instanceof Error; error = error.cause) if (error instanceof kind) return error;
  return undefined;
}

function tagIn(text: string, name: string): string | undefined {
  return new RegExp(`<${name}>([^<]{0,500})</${name}>`).exec(text)?.[1];
}

function facts(thrown: unknown): {
  name: string;
  status: number | undefined;
  errno: string | undefined;
  message: string;
  region: string | undefined;
} {
  if (!(thrown instanceof Error)) {
    return { name: '', status: undefined, errno: undefined, message: String(thrown), region: undefined };
  }
  const { code, $metadata, $response, Region } = thrown as Error & {
    // the SDK adds these to its errors, with the fields of the error document; if the body is not XML, it adds only the response
    code?: unknown;
    $metadata?: { httpStatusCode?: number };
    $response?: { statusCode?: number; headers?: Readonly<Record<string, string>> };
    Region?: unknown;
  };
  // an answer without an error document of S3: the SDK has its own words for it, or for the failure to read it as XML
  const isUnknown = /^Unknown(Error)?$/.test(thrown.name) || ($response !== undefined && !('$fault' in thrown));
  return {
    region: $response?.headers?.['x-amz-bucket-region'] ?? (typeof Region === 'string' ? Region : undefined),
    name: isUnknown ? '' : thrown.name,
    status: $metadata?.httpStatusCode ?? $response?.statusCode,
    errno: thrown.name === 'TimeoutError' ? 'ETIMEDOUT' : typeof code === 'string' ? code : undefined,
    message: isUnknown ? 'no reason given' : thrown.message,
  };
}
