import { createHash, randomBytes } from 'node:crypto';
import { S3Error } from './wire.ts';

/** An object, or a part of a multipart upload. Its bytes never change: a reader keeps the version that it began with. */
export interface StoredObject {
  readonly bytes: Buffer;
  /** The ETag, including its quotation marks. */
  readonly etag: string;
  readonly contentType: string;
  readonly modified: Date;
}

export interface Upload {
  readonly id: string;
  readonly key: string;
  readonly contentType: string;
  readonly started: Date;
  readonly parts: Map<number, StoredObject>;
}

export interface Listing {
  readonly objects: readonly { readonly key: string; readonly object: StoredObject }[];
  readonly commonPrefixes: readonly string[];
  /** The last name of this page, if there are more pages; the next page begins after this name. */
  readonly next: string | undefined;
}

/** Minimum size in bytes of every part except the last. */
const SMALLEST_PART = 5 << 20;

/** One bucket in memory: objects by their keys, and incomplete multipart uploads. The server uses this class. */
export class Bucket {
  readonly #objects = new Map<string, StoredObject>();
  readonly #uploads = new Map<string, Upload>();

  /** @throws S3Error NoSuchKey */
  get(key: string): StoredObject {
    const object = this.#objects.get(key);
    if (object === undefined) throw new S3Error(404, 'NoSuchKey', 'there is no such object');
    return object;
  }

  has(key: string): boolean {
    return this.#objects.has(key);
  }

  put(key: string, bytes: Buffer, contentType: string): StoredObject {
    return this.#store(key, objectOf(bytes, contentType));
  }

  delete(key: string): void {
    this.#objects.delete(key);
  }

  /** A page of at most `limit` names after the name `after`, in the order of their bytes. */
  list(page: { prefix: string; delimiter: string; after: string; limit: number }): Listing {
    const { prefix, delimiter, after, limit } = page;
    const objects: { key: string; object: StoredObject }[] = [];
    const commonPrefixes = new Set<string>();
    let last = '';
    for (const [key, object] of [...this.#objects].sort(([a], [b]) => compareBytes(a, b))) {
      if (!key.startsWith(prefix)) continue;
      const end = delimiter === '' ? -1 : key.indexOf(delimiter, prefix.length);
      const name = end === -1 ? key : key.slice(0, end + delimiter.length);
      if (commonPrefixes.has(name) || compareBytes(name, after) <= 0) continue;
      if (objects.length + commonPrefixes.size >= limit) {
        return { objects, commonPrefixes: [...commonPrefixes], next: last };
      }
      if (end === -1) objects.push({ key, object });
      else commonPrefixes.add(name);
      last = name;
    }
    return { objects, commonPrefixes: [...commonPrefixes], next: undefined };
  }

  startUpload(key: string, contentType: string): Upload {
    const upload = { id: randomBytes(16).toString('hex'), key, contentType, started: new Date(), parts: new Map() };
    this.#uploads.set(upload.id, upload);
    return upload;
  }

  /** @throws S3Error NoSuchUpload */
  upload(id: string): Upload {
    const upload = this.#uploads.get(id);
    if (upload === undefined) throw new S3Error(404, 'NoSuchUpload', 'there is no such upload');
    return upload;
  }

  uploads(prefix: string): Upload[] {
    return [...this.#uploads.values()]
      .filter(({ key }) => key.startsWith(prefix))
      .sort((a, b) => compareBytes(a.key, b.key));
  }

  putPart(upload: Upload, number: number, bytes: Buffer): StoredObject {
    const part = objectOf(bytes, upload.contentType);
    upload.parts.set(number, part);
    return part;
  }

  /** Makes an object of these parts, which are in order. @throws S3Error InvalidPart, EntityTooSmall */
  completeUpload(upload: Upload, chosen: readonly { number: number; etag: string }[]): StoredObject {
    const parts = chosen.map(({ number, etag }) => {
      const part = upload.parts.get(number);
      if (part?.etag.replaceAll('"', '') === etag.replaceAll('"', '')) return part;
      throw new S3Error(400, 'InvalidPart', `part ${number} was not uploaded, or has another ETag`);
    });
    if (parts.length === 0 || parts.slice(0, -1).some(({ bytes }) => bytes.length < SMALLEST_PART)) {
      throw new S3Error(400, 'EntityTooSmall', 'every part but the last has at least 5 MiB');
    }
    const digests = parts.map(({ etag }) => Buffer.from(etag.slice(1, -1), 'hex'));
    const etag = `"${md5(Buffer.concat(digests))}-${parts.length}"`;
    const bytes = Buffer.concat(parts.map((part) => part.bytes));
    this.abortUpload(upload);
    return this.#store(upload.key, { bytes, etag, contentType: upload.contentType, modified: new Date() });
  }

  abortUpload(upload: Upload): void {
    this.#uploads.delete(upload.id);
  }

  #store(key: string, object: StoredObject): StoredObject {
    this.#objects.set(key, object);
    return object;
  }
}

function objectOf(bytes: Buffer, contentType: string): StoredObject {
  return { bytes, etag: `"${md5(bytes)}"`, contentType, modified: new Date() };
}

const md5 = (bytes: Buffer): string => createHash('md5').update(bytes).digest('hex');
const compareBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));
