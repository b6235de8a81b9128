import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { S3Error } from './wire.ts';

export interface AccessKey {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Of temporary credentials. Requests must have the same. */
  readonly sessionToken?: string;
}

/** The fields of a signature, from the `Authorization` header or from the query. */
interface Claim {
  /** `ACCESS_KEY_ID/DATE/REGION/s3/aws4_request`. */
  readonly credential: string;
  /** Names, lower case, with `;` between them. */
  readonly signedHeaders: string;
  readonly signature: string;
  /** `20260102T030405Z`. */
  readonly date: string;
  /** The SHA-256 of the body, or a constant such as `UNSIGNED-PAYLOAD`. */
  readonly payload: string;
  readonly sessionToken: string | undefined;
}

const ALGORITHM = 'AWS4-HMAC-SHA256';

/**
 * Checks the signature of a request, version 4, as S3 computes it. A request without one is accepted. The hash of the
 * body is not compared with the body.
 * @throws S3Error InvalidAccessKeyId, ExpiredToken, SignatureDoesNotMatch, AccessDenied (a presigned URL that has expired)
 */
export function checkSignature(request: IncomingMessage, key: AccessKey): void {
  const [path = '', rawQuery = ''] = (request.url ?? '').split('?', 2);
  const query = new URLSearchParams(rawQuery);
  const claim = claimOf(request, query);
  if (claim === undefined) return;
  const [accessKeyId, ...scope] = claim.credential.split('/');
  if (accessKeyId !== key.accessKeyId) {
    throw new S3Error(403, 'InvalidAccessKeyId', 'no such access key ID');
  }
  if (claim.sessionToken !== key.sessionToken) throw new S3Error(400, 'ExpiredToken', 'the token has expired');
  const canonicalHeaders = claim.signedHeaders.split(';').map((name) => {
    const value = String(request.headers[name] ?? '');
    return `${name}:${value.trim().replaceAll(/ +/g, ' ')}\n`;
  });
  const canonicalRequest = [
    request.method,
    path,
    canonicalQuery(query),
    canonicalHeaders.join(''),
    claim.signedHeaders,
    claim.payload,
  ].join('\n');
  const toSign = [ALGORITHM, claim.date, scope.join('/'), sha256(canonicalRequest)].join('\n');
  const signingKey = scope.reduce<string | Buffer>((secret, part) => hmac(secret, part), `AWS4${key.secretAccessKey}`);
  const expected = Buffer.from(hmac(signingKey, toSign).toString('hex'));
  const given = Buffer.from(claim.signature);
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) {
    throw new S3Error(403, 'SignatureDoesNotMatch', 'the signature is not that of this request and this key');
  }
}

function claimOf(request: IncomingMessage, query: URLSearchParams): Claim | undefined {
  const { authorization } = request.headers;
  if (authorization?.startsWith(ALGORITHM)) {
    const field = (name: string) => new RegExp(`${name}=([^,\\s]+)`).exec(authorization)?.[1] ?? '';
    return {
      credential: field('Credential'),
      signedHeaders: field('SignedHeaders'),
      signature: field('Signature'),
      date: String(request.headers['x-amz-date'] ?? ''),
      payload: String(request.headers['x-amz-content-sha256'] ?? ''),
      sessionToken: request.headers['x-amz-security-token']?.toString(),
    };
  }
  const field = (name: string) => query.get(`X-Amz-${name}`) ?? '';
  if (field('Signature') === '') return undefined;
  const [, year, month, day, hour, minute, second] = /^(....)(..)(..)T(..)(..)(..)Z$/.exec(field('Date')) ?? [];
  const signedAt = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  if (!(Date.now() < signedAt + Number(field('Expires')) * 1000)) {
    throw new S3Error(403, 'AccessDenied', 'Request has expired');
  }
  return {
    credential: field('Credential'),
    signedHeaders: field('SignedHeaders'),
    signature: field('Signature'),
    date: field('Date'),
    payload: String(request.headers['x-amz-content-sha256'] ?? 'UNSIGNED-PAYLOAD'),
    sessionToken: query.get('X-Amz-Security-Token') ?? undefined,
  };
}

function canonicalQuery(query: URLSearchParams): string {
  return [...query]
    .filter(([name]) => name !== 'X-Amz-Signature')
    .map(([name, value]) => `${encoded(name)}=${encoded(value)}`)
    .sort()
    .join('&');
}

/** RFC 3986: `encodeURIComponent` leaves five reserved characters as they are. */
function encoded(text: string): string {
  return encodeURIComponent(text).replaceAll(/[!'()*]/g, (character) => `%${Buffer.from(character).toString('hex')}`);
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
const hmac = (key: string | Buffer, text: string): Buffer => createHmac('sha256', key).update(text).digest();
