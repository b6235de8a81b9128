import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { listen } from '../local-programs.ts';
import { Bucket, type StoredObject } from './bucket.ts';
import { type AccessKey, checkSignature } from './signature.ts';
import { decodeChunked, readElements, S3Error, type XmlElement, xml } from './wire.ts';

/** A server that runs in this process, for the demo and the tests. */
export interface S3Server extends AccessKey {
  /** `http://127.0.0.1:PORT`; the bucket is the first part of the path. */
  readonly endpoint: string;
  readonly region: string;
  /** Closes the open connections too. */
  close(): Promise<void>;
}

/** A request with everything that is needed to answer it. */
interface Call {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly buckets: ReadonlyMap<string, Bucket>;
  readonly bucket: Bucket;
  readonly bucketName: string;
  readonly key: string;
  readonly query: URLSearchParams;
}

const KEY: AccessKey = { accessKeyId: 'DEVELOPMENT', secretAccessKey: 'development-only' };
const LONGEST_LIST = 1000;
/**
 * The query parameters of the supported calls. A request with any other parameter, for example `?acl`, is another call.
 */
const PARAMETERS = new Set([
  ...['uploads', 'uploadId', 'partNumber', 'delete', 'x-id'],
  ...['list-type', 'prefix', 'delimiter', 'max-keys', 'marker', 'start-after', 'continuation-token'],
]);

/**
 * Starts an S3 server on a free port of loopback. It keeps objects in memory and has the calls that unpackd and a
 * container registry make: objects with ranges and conditions, lists, multipart uploads, copies. It checks signatures.
 * It has no versions, no access rights and no virtual-hosted addresses. Every other call is answered 501.
 * @param options.key the only accepted key at the time of a request. Default: always the same
 */
export async function startS3Server(options: {
  readonly buckets: readonly string[];
  readonly key?: () => AccessKey;
}): Promise<S3Server> {
  const { key = () => KEY } = options;
  const buckets = new Map(options.buckets.map((name) => [name, new Bucket()]));
  const server = createServer((request, response) => {
    answer(request, response, buckets, key()).catch((error: unknown) => sendError(request, response, error));
  });
  const port = await listen(server);
  return {
    endpoint: `http://127.0.0.1:${port}`,
    ...key(),
    region: 'us-east-1',
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  buckets: ReadonlyMap<string, Bucket>,
  accepted: AccessKey,
): Promise<void> {
  checkSignature(request, accepted);
  const url = new URL(request.url ?? '/', 'http://localhost');
  const [, bucketName = '', path = ''] = /^\/([^/]*)\/?(.*)$/s.exec(url.pathname) ?? [];
  const bucket = bucketOf(buckets, bucketName);
  const unknown = [...url.searchParams.keys()].find((name) => !PARAMETERS.has(name) && !/^x-amz-/i.test(name));
  if (unknown !== undefined) throw notImplemented();
  const key = decodeURIComponent(path);
  const call = { request, response, buckets, bucket, bucketName, key, query: url.searchParams };
  if (key === '') await answerForBucket(call);
  else if (url.searchParams.has('uploads') || url.searchParams.has('uploadId')) await answerForUpload(call);
  else await answerForObject(call);
}

async function answerForBucket(call: Call): Promise<void> {
  const { request, response, bucket, bucketName, query } = call;
  const prefix = query.get('prefix') ?? '';
  if (request.method === 'HEAD') return void response.end();
  if (request.method === 'GET' && query.has('uploads')) {
    const Upload = bucket.uploads(prefix).map(({ key, id, started }) => ({
      Key: key,
      UploadId: id,
      Initiated: started.toISOString(),
    }));
    return sendXml(response, 'ListMultipartUploadsResult', { Bucket: bucketName, IsTruncated: false, Upload });
  }
  if (request.method === 'POST' && query.has('delete')) {
    const keys = readElements(String(await bodyOf(request)), 'Key');
    for (const key of keys) bucket.delete(key);
    return sendXml(response, 'DeleteResult', { Deleted: keys.map((key) => ({ Key: key })) });
  }
  if (request.method !== 'GET') throw notImplemented();
  sendList(call, prefix);
}

/** ListObjectsV2, or the older ListObjects. They differ in the parameter for the start of a page. */
function sendList({ response, bucket, bucketName, query }: Call, prefix: string): void {
  const isV2 = query.get('list-type') === '2';
  const token = query.get('continuation-token');
  const after = isV2 ? (token === null ? query.get('start-after') : fromToken(token)) : query.get('marker');
  const delimiter = query.get('delimiter') ?? '';
  const limit = Math.min(Number(query.get('max-keys') ?? LONGEST_LIST), LONGEST_LIST);
  const { objects, commonPrefixes, next } = bucket.list({ prefix, delimiter, after: after ?? '', limit });
  sendXml(response, 'ListBucketResult', {
    Name: bucketName,
    Prefix: prefix,
    Delimiter: delimiter === '' ? undefined : delimiter,
    MaxKeys: limit,
    KeyCount: isV2 ? objects.length + commonPrefixes.length : undefined,
    IsTruncated: next !== undefined,
    NextMarker: isV2 ? undefined : next,
    NextContinuationToken: isV2 && next !== undefined ? toToken(next) : undefined,
    Contents: objects.map(({ key, object }) => ({
      Key: key,
      LastModified: object.modified.toISOString(),
      ETag: object.etag,
      Size: object.bytes.length,
      StorageClass: 'STANDARD',
    })),
    CommonPrefixes: commonPrefixes.map((name) => ({ Prefix: name })),
  });
}

async function answerForUpload({ request, response, buckets, bucket, bucketName, key, query }: Call): Promise<void> {
  if (request.method === 'POST' && query.has('uploads')) {
    const { id } = bucket.startUpload(key, contentTypeOf(request));
    return sendXml(response, 'InitiateMultipartUploadResult', { Bucket: bucketName, Key: key, UploadId: id });
  }
  const upload = bucket.upload(query.get('uploadId') ?? '');
  const common = { Bucket: bucketName, Key: key };
  switch (request.method) {
    case 'PUT': {
      const copied = copySource(request, buckets);
      const { etag } = bucket.putPart(upload, Number(query.get('partNumber')), copied ?? (await bodyOf(request)));
      if (copied !== undefined) return sendXml(response, 'CopyPartResult', { ETag: etag });
      return void response.writeHead(200, { etag }).end();
    }
    case 'POST': {
      const body = String(await bodyOf(request));
      const etags = readElements(body, 'ETag');
      const numbers = readElements(body, 'PartNumber').map(Number);
      const chosen = numbers.map((number, index) => ({ number, etag: etags[index] ?? '' }));
      const { etag } = bucket.completeUpload(upload, chosen);
      return sendXml(response, 'CompleteMultipartUploadResult', { ...common, ETag: etag });
    }
    case 'GET': {
      const parts = [...upload.parts].sort(([a], [b]) => a - b);
      const Part = parts.map(([number, { etag, bytes, modified }]) => ({
        PartNumber: number,
        ETag: etag,
        Size: bytes.length,
        LastModified: modified.toISOString(),
      }));
      return sendXml(response, 'ListPartsResult', { ...common, UploadId: upload.id, IsTruncated: false, Part });
    }
    case 'DELETE':
      bucket.abortUpload(upload);
      return void response.writeHead(204).end();
    default:
      throw notImplemented();
  }
}

async function answerForObject({ request, response, buckets, bucket, key }: Call): Promise<void> {
  switch (request.method) {
    case 'GET':
    case 'HEAD': {
      const object = bucket.get(key);
      checkConditions(request, object);
      return sendObject(request, response, object);
    }
    case 'PUT': {
      const copied = copySource(request, buckets);
      const bytes = copied ?? (await bodyOf(request));
      // after the last wait, so that no other request changes the object between the check and the write
      if (bucket.has(key) || request.headers['if-match'] !== undefined) checkConditions(request, bucket.get(key));
      const { etag, modified } = bucket.put(key, bytes, contentTypeOf(request));
      if (copied !== undefined) {
        return sendXml(response, 'CopyObjectResult', { ETag: etag, LastModified: modified.toISOString() });
      }
      return void response.writeHead(200, { etag }).end();
    }
    case 'DELETE':
      bucket.delete(key);
      return void response.writeHead(204).end();
    default:
      throw notImplemented();
  }
}

/** @throws S3Error PreconditionFailed; NotModified for a read whose If-None-Match names this object */
function checkConditions({ method, headers }: IncomingMessage, { etag }: StoredObject): void {
  const names = (header: string) => header === '*' || header.split(/\s*,\s*/).includes(etag);
  if (headers['if-match'] !== undefined && !names(headers['if-match'])) {
    throw new S3Error(412, 'PreconditionFailed', 'If-Match names another object');
  }
  if (headers['if-none-match'] === undefined || !names(headers['if-none-match'])) return;
  if (method === 'PUT') throw new S3Error(412, 'PreconditionFailed', 'the object exists');
  throw new S3Error(304, 'NotModified', 'If-None-Match names this object');
}

function sendObject(request: IncomingMessage, response: ServerResponse, object: StoredObject): void {
  const { length } = object.bytes;
  const range = rangeOf(request.headers.range, length);
  const { from, to } = range ?? { from: 0, to: length };
  response.writeHead(range === undefined ? 200 : 206, {
    'accept-ranges': 'bytes',
    'content-length': to - from,
    ...(range === undefined ? {} : { 'content-range': `bytes ${from}-${to - 1}/${length}` }),
    'content-type': object.contentType,
    etag: object.etag,
    'last-modified': object.modified.toUTCString(),
  });
  if (request.method === 'HEAD') response.end();
  else response.end(object.bytes.subarray(from, to));
}

/**
 * The range is from `from` (included) to `to` (excluded). A header that is not a single range of bytes is ignored.
 * @throws S3Error InvalidRange
 */
function rangeOf(header: string | undefined, length: number): { from: number; to: number } | undefined {
  const [, first = '', last = ''] = /^bytes=(\d*)-(\d*)$/.exec(header ?? '') ?? [];
  if (first === '' && last === '') return undefined;
  const from = first === '' ? Math.max(0, length - Number(last)) : Number(first);
  const to = first === '' || last === '' ? length : Math.min(Number(last) + 1, length);
  if (from >= to) throw new S3Error(416, 'InvalidRange', `the object has ${length} bytes`);
  return { from, to };
}

/** The bytes that a copy takes from another object. @throws S3Error NoSuchBucket, NoSuchKey, InvalidRange */
function copySource({ headers }: IncomingMessage, buckets: ReadonlyMap<string, Bucket>): Buffer | undefined {
  const source = headers['x-amz-copy-source'];
  if (source === undefined) return undefined;
  const [, bucket = '', key = ''] = /^\/?([^/]+)\/(.+)$/s.exec(decodeURIComponent(String(source))) ?? [];
  const { bytes } = bucketOf(buckets, bucket).get(key);
  const range = headers['x-amz-copy-source-range'];
  const { from, to } = rangeOf(range === undefined ? undefined : String(range), bytes.length) ?? {
    from: 0,
    to: bytes.length,
  };
  return bytes.subarray(from, to);
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const body = await buffer(request);
  const isChunked = String(request.headers['x-amz-content-sha256'] ?? '').startsWith('STREAMING-');
  return isChunked ? decodeChunked(body) : body;
}

function bucketOf(buckets: ReadonlyMap<string, Bucket>, name: string): Bucket {
  const bucket = buckets.get(name);
  if (bucket === undefined) throw new S3Error(404, 'NoSuchBucket', 'there is no such bucket');
  return bucket;
}

const contentTypeOf = ({ headers }: IncomingMessage): string => headers['content-type'] ?? 'binary/octet-stream';
const toToken = (name: string): string => Buffer.from(name).toString('base64url');
const fromToken = (token: string): string => Buffer.from(token, 'base64url').toString();
const notImplemented = (): S3Error =>
  new S3Error(501, 'NotImplemented', 'the development server does not have this call');

function sendXml(response: ServerResponse, name: string, content: XmlElement): void {
  const body = xml(name, content);
  response.writeHead(200, { 'content-type': 'application/xml', 'content-length': Buffer.byteLength(body) }).end(body);
}

function sendError(request: IncomingMessage, response: ServerResponse, error: unknown): void {
  if (response.headersSent) return void response.destroy();
  const { status, code, message } = error instanceof S3Error ? error : new S3Error(500, 'InternalError', String(error));
  const body = xml('Error', { Code: code, Message: message });
  response.writeHead(status, { 'content-type': 'application/xml' });
  response.end(request.method === 'HEAD' || status === 304 ? undefined : body);
}
