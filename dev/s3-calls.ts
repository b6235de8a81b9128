import { readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { removeTree } from '../src/system/remove-tree.ts';

/** The part of s3rver's file store that is used here. */
export interface S3rverStore {
  getResourcePath(bucket: string, key: string | undefined, resource: string): string;
  getMetadata(bucket: string, key: string): Promise<{ readonly etag: string }>;
  listObjects(bucket: string, options: ListOptions): Promise<Listing>;
  putContent(path: string, content: unknown): Promise<unknown>;
}

interface ListOptions {
  readonly prefix?: string | undefined;
  readonly delimiter?: string | undefined;
  readonly startAfter?: string | undefined;
  readonly maxKeys?: number | undefined;
}

interface Listing {
  readonly objects: readonly { readonly key: string }[];
  readonly commonPrefixes: readonly string[];
  readonly isTruncated: boolean;
}

/**
 * Answers the calls that a container registry makes and s3rver does not know (it answers 501 or 405):
 * ListMultipartUploads, ListParts and AbortMultipartUpload, with which a registry continues an upload; and If-Match,
 * which s3rver ignores. Signatures are not looked at here.
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
  if (request.method === 'GET' && bucket !== '' && key === '' && query.has('uploads')) {
    sendXml(response, 200, await listUploads(store, bucket, query.get('prefix') ?? ''));
  } else if (request.method === 'GET' && key !== '' && upload !== null) {
    sendXml(response, 200, await listParts(uploadFolder(store, bucket, upload), { bucket, key, upload }));
  } else if (request.method === 'DELETE' && key !== '' && upload !== null) {
    await removeTree(uploadFolder(store, bucket, upload));
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

/**
 * Listings in S3's order, by bytes; s3rver's is the folder's, and with a delimiter it loses what lies deeper. What stays
 * wrong: a ListObjectsV2 of more than 1,000 keys fails, because s3rver's continuation token is a DES cipher, which
 * OpenSSL 3 no longer has.
 */
export function listInOrder(store: S3rverStore): void {
  const listAll = store.listObjects.bind(store);
  store.listObjects = async (bucket, options) => {
    const { prefix = '', delimiter = '', startAfter = '', maxKeys = Number.POSITIVE_INFINITY } = options;
    const { objects } = await listAll(bucket, { prefix });
    const sorted = [...objects].sort((a, b) => compareBytes(a.key, b.key));
    const found: (typeof sorted)[number][] = [];
    const commonPrefixes = new Set<string>();
    for (const object of sorted) {
      const end = delimiter === '' ? -1 : object.key.indexOf(delimiter, prefix.length);
      const name = end === -1 ? object.key : object.key.slice(0, end + delimiter.length);
      if (commonPrefixes.has(name) || compareBytes(name, startAfter) <= 0) continue;
      if (found.length + commonPrefixes.size >= maxKeys) {
        return { objects: found, commonPrefixes: [...commonPrefixes], isTruncated: true };
      }
      if (end === -1) found.push(object);
      else commonPrefixes.add(name);
    }
    return { objects: found, commonPrefixes: [...commonPrefixes], isTruncated: false };
  };
}

const compareBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));

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

function sendXml(response: ServerResponse, status: number, xml: string): void {
  const body = `<?xml version="1.0" encoding="UTF-8"?>\n${xml}`;
  response
    .writeHead(status, { 'content-type': 'application/xml', 'content-length': Buffer.byteLength(body) })
    .end(body);
}

const escaped = (text: string): string => text.replaceAll(/[<>&"\r]/g, (character) => `&#${character.charCodeAt(0)};`);
