import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { throwIfAborted, UnpackError } from '../errors.ts';
import type { BlobDigest } from '../oci/digest.ts';
import type { BlobSource, BlobStream, OpenOptions } from './blob-source.ts';
import type { FileBlobSpec } from './source-spec.ts';

/**
 * A read is a way to another thread and back, and so is what it feeds: with 256 KiB here and in the inflater a layer alone
 * took a sixth longer, and longer pieces than these gain nothing.
 */
const CHUNK = 1024 * 1024;

/** One blob that is a file, as a local layout lends it to another thread. A chunk is valid until the next is asked for. */
export function lentFile(spec: FileBlobSpec): BlobSource {
  const only = (): never => {
    throw new UnpackError('INTERNAL', `${spec.name} was lent for one blob alone`);
  };
  return {
    name: spec.name,
    maxResumes: 0,
    open: (digest, options) => openFileBlob(spec.path, digest, options, Buffer.allocUnsafeSlow(CHUNK)),
    lend: async () => spec,
    resolveTag: only,
    close: () => {},
  };
}

/**
 * Bytes of a blob's file from an offset on; its version (inode, time, size) stands for an etag.
 * @param buffer read into again and again: each chunk is then valid until the next is asked for
 */
export async function openFileBlob(
  path: string,
  digest: BlobDigest,
  options: OpenOptions,
  buffer?: Buffer,
): Promise<BlobStream> {
  const { offset = 0, etag, signal } = options;
  throwIfAborted(signal);
  const file = await openFile(path, digest);
  const { size, mtimeNs, ino } = await file.stat({ bigint: true });
  const version = `${ino}-${mtimeNs}-${size}`;
  if (etag !== undefined && etag !== version) {
    await file.close();
    throw new UnpackError('BLOB_DIGEST_MISMATCH', `${path} was replaced while it was read`, {
      details: { digest },
    });
  }
  return { size: Number(size), etag: version, offset, chunks: fileChunks(file, path, offset, signal, buffer) };
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
  reused: Buffer | undefined,
): AsyncIterableIterator<Buffer, undefined> {
  let position = offset;
  const done = { done: true, value: undefined } as const;
  return {
    async next() {
      try {
        throwIfAborted(signal);
        // unless told otherwise, a new buffer each time: the consumer keeps what it was given
        const { bytesRead, buffer } = await file.read(reused ?? Buffer.allocUnsafeSlow(CHUNK), 0, CHUNK, position);
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

/** What reading a file of a layout failed with, as one of our failures. */
export function fileError(
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
