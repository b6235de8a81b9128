import { readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';

/** The part of s3rver's file store that is used here. */
export interface S3rverStore {
  getResourcePath(bucket: string, key: string | undefined, resource: string): string;
  getMetadata(bucket: string, key: string): Promise<{ readonly etag: string }>;
  listObjects(bucket: string, options: { readonly prefix: string }): Promise<{ readonly objects: readonly S3Object[] }>;
  putContent(path: string, content: unknown): Promise<unknown>;
}

interface S3Object {
  readonly key: string;
  readonly size: number;
  readonly lastModifiedDate: Date;
  readonly metadata: { readonly etag: string };
}

/**
 * Answers the calls that a container registry makes and s3rver does not know (it answers 501 or 405), or gets wrong:
 * ListMultipartUploads, ListParts and AbortMultipartUpload, with which a registry continues an upload;
 * ListObjectsV2 in pages (s3rver's continuation token is a DES cipher that OpenSSL 3 no longer has, and its order is
 * the folder's); and If-Match, which it ignores.
 * @returns whether the call has been answered; if not it is s3rver's
 */
export async function answerMissingCall(
  store: S3rverStore,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<boolean> {
  const url = new URL(request.url ?? '/', 'http://localhost');
  const [bucket = '', ...rest] = url.pathname.slice(1).split('/').map(decodeURIComponent);
  const key = rest.join('/');
  const { searchParams: query } = url;
  const upload = query.get('uploadId');
  if (request.method === 'GET' && key === '' && query.has('uploads')) {
    sendXml(response, 200, await listUploads(store, bucket, query.get('prefix') ?? ''));
  } else if (request.method === 'GET' && key === '' && query.get('list-type') === '2') {
    sendXml(response, 200, await listObjects(store, bucket, query));
  } else if (request.method === 'GET' && key !== '' && upload !== null) {
    sendXml(response, 200, await listParts(uploadFolder(store, bucket, upload), { bucket, key, upload }));
  } else if (request.method === 'DELETE' && key !== '' && upload !== null) {
    await rm(uploadFolder(store, bucket, upload), { recursive: true, force: true });
    response.writeHead(204).end();
  } else if (request.method === 'GET' && request.headers['if-match'] !== undefined) {
    const found = await store.getMetadata(bucket, key).catch(() => undefined);
    if (found === undefined || found.etag === request.headers['if-match']) return false;
    sendXml(response, 412, '<Error><Code>PreconditionFailed</Code><Message>If-Match does not hold</Message></Error>');
  } else {
    return false;
  }
  return true;
}

/** s3rver writes in place, so that a reader meets half an object; here an object appears when it is whole. */
export function writeWholeObjects(store: S3rverStore): void {
  const putContent = store.putContent.bind(store);
  let count = 0;
  store.putContent = async (path, content) => {
    count += 1;
    const unfinished = `${path}.${count}.unfinished`;
    try {
      const written = await putContent(unfinished, content);
      await rename(unfinished, path);
      return written;
    } catch (error) {
      await rm(unfinished, { force: true });
      throw error;
    }
  };
}

const uploadFolder = (store: S3rverStore, bucket: string, upload: string): string =>
  join(store.getResourcePath(bucket, undefined, 'uploads'), upload.replaceAll(/[^0-9a-f]/g, ''));

async function listUploads(store: S3rverStore, bucket: string, prefix: string): Promise<string> {
  const folder = store.getResourcePath(bucket, undefined, 'uploads');
  const uploads = await Promise.all(
    (await readdir(folder).catch(() => [])).map(async (id) => ({
      id,
      // gone when another call has just completed the upload
      key: await readFile(join(folder, id, 'key'), 'utf8').catch(() => undefined),
    })),
  );
  const entries = uploads.flatMap(({ id, key }) =>
    key?.startsWith(prefix)
      ? [
          `<Upload><Key>${escaped(key)}</Key><UploadId>${id}</UploadId><Initiated>${new Date().toISOString()}</Initiated></Upload>`,
        ]
      : [],
  );
  return `<ListMultipartUploadsResult><Bucket>${escaped(bucket)}</Bucket><Prefix>${escaped(prefix)}</Prefix><IsTruncated>false</IsTruncated>${entries.join('')}</ListMultipartUploadsResult>`;
}

async function listParts(folder: string, of: { bucket: string; key: string; upload: string }): Promise<string> {
  const numbers = (await readdir(folder).catch(() => []))
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .sort((a, b) => a - b);
  const parts = await Promise.all(
    numbers.map(async (number) => {
      const path = join(folder, String(number));
      const [{ size, mtime }, md5] = await Promise.all([stat(path), readFile(`${path}.md5`, 'utf8')]);
      return `<Part><PartNumber>${number}</PartNumber><ETag>"${md5}"</ETag><Size>${size}</Size><LastModified>${mtime.toISOString()}</LastModified></Part>`;
    }),
  );
  return `<ListPartsResult><Bucket>${escaped(of.bucket)}</Bucket><Key>${escaped(of.key)}</Key><UploadId>${of.upload}</UploadId><IsTruncated>false</IsTruncated>${parts.join('')}</ListPartsResult>`;
}

async function listObjects(store: S3rverStore, bucket: string, query: URLSearchParams): Promise<string> {
  const prefix = query.get('prefix') ?? '';
  const delimiter = query.get('delimiter') ?? '';
  const most = Math.min(1000, Number(query.get('max-keys') ?? 1000));
  const token = query.get('continuation-token');
  const after = token === null ? (query.get('start-after') ?? '') : Buffer.from(token, 'base64url').toString();
  const { objects } = await store.listObjects(bucket, { prefix });
  const sorted = [...objects].sort((a, b) => Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)));
  const rows: string[] = [];
  let last = '';
  let truncated = false;
  for (const { key, size, lastModifiedDate, metadata } of sorted) {
    const end = delimiter === '' ? -1 : key.indexOf(delimiter, prefix.length);
    const name = end === -1 ? key : key.slice(0, end + delimiter.length);
    if (name === last || Buffer.compare(Buffer.from(name), Buffer.from(after)) <= 0) continue;
    if (rows.length >= most) {
      truncated = true;
      break;
    }
    last = name;
    rows.push(
      end === -1
        ? `<Contents><Key>${escaped(key)}</Key><LastModified>${lastModifiedDate.toISOString()}</LastModified><ETag>${escaped(metadata.etag)}</ETag><Size>${size}</Size><StorageClass>STANDARD</StorageClass></Contents>`
        : `<CommonPrefixes><Prefix>${escaped(name)}</Prefix></CommonPrefixes>`,
    );
  }
  const next = truncated
    ? `<NextContinuationToken>${Buffer.from(last).toString('base64url')}</NextContinuationToken>`
    : '';
  return `<ListBucketResult><Name>${escaped(bucket)}</Name><Prefix>${escaped(prefix)}</Prefix><KeyCount>${rows.length}</KeyCount><MaxKeys>${most}</MaxKeys><IsTruncated>${truncated}</IsTruncated>${next}${rows.join('')}</ListBucketResult>`;
}

function sendXml(response: ServerResponse, status: number, xml: string): void {
  const body = `<?xml version="1.0" encoding="UTF-8"?>\n${xml}`;
  response
    .writeHead(status, { 'content-type': 'application/xml', 'content-length': Buffer.byteLength(body) })
    .end(body);
}

const escaped = (text: string): string => text.replaceAll(/[<>&"\r]/g, (character) => `&#${character.charCodeAt(0)};`);
