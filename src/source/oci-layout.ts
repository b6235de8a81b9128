import { constants } from 'node:fs';
import { type FileHandle, open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { throwIfAborted, UnpackError } from '../errors.ts';
import { algorithmOf, type BlobDigest, hexOf } from '../oci/digest.ts';
import { DOCUMENT_LIMIT, findTag, parseIndex } from '../oci/manifest.ts';
import type { BlobSource } from './blob-source.ts';
import type { OciLayoutSpec } from './source-spec.ts';

export type { OciLayoutSpec } from './source-spec.ts';

const CHUNK = 256 * 1024;

/** The images of a local folder (image spec, image-layout.md), behind the same interface as a bucket. */
export function openOciLayout(spec: OciLayoutSpec): BlobSource {
  const { path: root } = spec;
  return {
    name: root,
    maxResumes: 0,
    async open(digest, { offset = 0, etag, signal }) {
      throwIfAborted(signal);
      const path = join(root, 'blobs', algorithmOf(digest), hexOf(digest));
      const file = await openFile(path, digest);
      const { size, mtimeNs, ino } = await file.stat({ bigint: true });
      const version = `${ino}-${mtimeNs}-${size}`;
      if (etag !== undefined && etag !== version) {
        await file.close();
        throw new UnpackError('BLOB_DIGEST_MISMATCH', `${path} was replaced while it was read`, {
          details: { digest },
        });
      }
      return { size: Number(size), etag: version, offset, chunks: fileChunks(file, path, offset, signal) };
    },
    async resolveTag(tag, signal) {
      throwIfAborted(signal);
      const path = join(root, 'index.json');
      const length = (await stat(path).catch((cause) => Promise.reject(fileError(cause, path, 'IMAGE_NOT_FOUND'))))
        .size;
      if (length > DOCUMENT_LIMIT) {
        throw new UnpackError('LIMIT_EXCEEDED', `${path} has ${length} bytes; an index may have ${DOCUMENT_LIMIT}`);
      }
      return findTag(parseIndex(await readFile(path), path), tag, path);
    },
    close() {},
  };
}

async function openFile(path: string, digest: BlobDigest): Promise<FileHandle> {
  let file: FileHandle;
  try {
    // without O_NONBLOCK a FIFO in the folder would hold the thread for ever
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    throw fileError(cause, path, 'BLOB_NOT_FOUND', digest);
  }
  if ((await file.stat()).isFile()) return file;
  await file.close();
  throw new UnpackError('BLOB_NOT_FOUND', `${path} is not a regular file`, { details: { digest } });
}

/** Not a generator: one that was never started would not run its `finally`, and the file would stay open. */
function fileChunks(
  file: FileHandle,
  path: string,
  offset: number,
  signal: AbortSignal | undefined,
): AsyncIterableIterator<Buffer, undefined> {
  let position = offset;
  const done = { done: true, value: undefined } as const;
  return {
    async next() {
      try {
        throwIfAborted(signal);
        // a new buffer each time: the consumer keeps what it was given
        const { bytesRead, buffer } = await file.read(Buffer.allocUnsafeSlow(CHUNK), 0, CHUNK, position);
        position += bytesRead;
        if (bytesRead > 0) return { done: false, value: buffer.subarray(0, bytesRead) };
      } catch (cause) {
        await file.close();
        throw cause instanceof UnpackError ? cause : fileError(cause, path, 'BLOB_NOT_FOUND');
      }
      await file.close();
      return done;
    },
    async return() {
      await file.close(); // a second close of a FileHandle does nothing
      return done;
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

function fileError(
  cause: unknown,
  path: string,
  missing: 'BLOB_NOT_FOUND' | 'IMAGE_NOT_FOUND',
  digest?: BlobDigest,
): UnpackError {
  const errno = cause instanceof Error ? (cause as NodeJS.ErrnoException).code : undefined;
  const options = { cause, details: digest === undefined ? {} : { digest } };
  if (errno === 'ENOENT' || errno === 'ENOTDIR') {
    return new UnpackError(missing, `${path} does not exist; is the layout complete?`, options);
  }
  if (errno === 'EACCES' || errno === 'EPERM') {
    return new UnpackError('SOURCE_DENIED', `${path} may not be read by this user`, options);
  }
  return new UnpackError('SOURCE_UNAVAILABLE', `${path} can't be read: ${errno ?? String(cause)}`, options);
}
