import { type BigIntStats, closeSync, constants, fstatSync, openSync, read as readOnThread, readSync } from 'node:fs';
import { errnoOf, isMissing } from '../errno.ts';
import { throwIfAborted, UnpackError } from '../errors.ts';
import type { BlobDigest } from '../oci/digest.ts';
import type { SpareBuffers } from '../system/spare-buffers.ts';
import type { BlobStream, OpenOptions } from './blob-source.ts';

/**
 * Size of one chunk in bytes. With 256 KiB a single layer took a sixth longer, because each chunk costs two calls on
 * other threads: reading and inflating. Larger chunks are not faster (measured).
 */
export const FILE_CHUNK = 1024 * 1024;

/**
 * The bytes of a file from an offset on. Inode, time and size serve as the ETag.
 * @param buffers of FILE_CHUNK bytes; a chunk is then valid until the next one is requested. Default: a new buffer for each chunk
 * @throws UnpackError as `BlobSource.open`
 */
export async function openFileBlob(
  path: string,
  digest: BlobDigest,
  options: OpenOptions,
  buffers?: SpareBuffers,
): Promise<BlobStream> {
  const { offset = 0, etag, signal } = options;
  throwIfAborted(signal);
  const { file, status } = openFile(path, digest);
  const { size, mtimeNs, ino } = status;
  const version = `${ino}-${mtimeNs}-${size}`;
  if (etag !== undefined && etag !== version) {
    closeSync(file);
    throw new UnpackError('BLOB_DIGEST_MISMATCH', `${path} was replaced while it was read`, {
      details: { digest },
    });
  }
  const chunks = new FileChunks(file, path, { position: offset, size: Number(size), signal, buffers });
  return { size: Number(size), etag: version, offset, chunks };
}

function openFile(path: string, digest: BlobDigest): { readonly file: number; readonly status: BigIntStats } {
  let file: number;
  try {
    // O_NONBLOCK, because opening a FIFO would block the thread forever
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    throw fileError(cause, path, 'BLOB_NOT_FOUND', digest);
  }
  const status = fstatSync(file, { bigint: true });
  if (status.isFile()) return { file, status };
  closeSync(file);
  throw new UnpackError('BLOB_NOT_FOUND', `${path} is not a regular file`, { details: { digest } });
}

const DONE = { done: true, value: undefined } as const;

/** Not a generator, because a generator that was never started does not run its `finally`, and the file would stay open. */
class FileChunks implements AsyncIterableIterator<Buffer, undefined> {
  /** -1 when closed. */
  #file: number;
  readonly #path: string;
  #position: number;
  /**
   * The size of the file in bytes. A file of one chunk is read on this thread, because another thread would take
   * longer.
   */
  readonly #size: number;
  readonly #signal: AbortSignal | undefined;
  readonly #buffers: SpareBuffers | undefined;
  readonly #reused: Buffer | undefined;
  #reading: Promise<number> | undefined;

  constructor(
    file: number,
    path: string,
    options: { position: number; size: number; signal: AbortSignal | undefined; buffers: SpareBuffers | undefined },
  ) {
    this.#file = file;
    this.#path = path;
    this.#position = options.position;
    this.#size = options.size;
    this.#signal = options.signal;
    this.#buffers = options.buffers;
    this.#reused = options.buffers?.take();
  }

  async next(): Promise<IteratorResult<Buffer, undefined>> {
    if (this.#file < 0) return DONE;
    try {
      throwIfAborted(this.#signal);
      const buffer = this.#reused ?? Buffer.allocUnsafeSlow(Math.min(Math.max(this.#size, 1), FILE_CHUNK));
      const small = this.#size <= FILE_CHUNK;
      this.#reading = small ? undefined : read(this.#file, buffer, this.#position);
      const count = await (this.#reading ?? readSync(this.#file, buffer, 0, buffer.length, this.#position));
      this.#position += count;
      if (count > 0) return { done: false, value: buffer.subarray(0, count) };
    } catch (cause) {
      await this.return();
      throw cause instanceof UnpackError ? cause : fileError(cause, this.#path, 'BLOB_NOT_FOUND');
    }
    return this.return();
  }

  async return(): Promise<IteratorReturnResult<undefined>> {
    await this.#reading?.catch(() => {}); // wait, because the pending read writes into the buffer
    if (this.#file < 0) return DONE;
    closeSync(this.#file);
    this.#file = -1;
    if (this.#reused !== undefined) this.#buffers?.give(this.#reused);
    return DONE;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}

function read(file: number, buffer: Buffer, position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    readOnThread(file, buffer, 0, buffer.length, position, (error, count) => {
      if (error === null) resolve(count);
      else reject(error);
    });
  });
}

/** The failure for an error of the file system. @param missing the code for a missing file */
export function fileError(
  cause: unknown,
  path: string,
  missing: 'BLOB_NOT_FOUND' | 'IMAGE_NOT_FOUND',
  digest?: BlobDigest,
): UnpackError {
  const errno = errnoOf(cause);
  const options = { cause, details: digest === undefined ? {} : { digest } };
  if (isMissing(cause)) {
    return new UnpackError(missing, `${path} does not exist; check that the layout is complete`, options);
  }
  if (errno === 'EACCES' || errno === 'EPERM') {
    return new UnpackError(
      'SOURCE_DENIED',
      `${path}: this user has no permission to read it; change its permissions`,
      options,
    );
  }
  return new UnpackError('SOURCE_UNAVAILABLE', `${path} can't be read: ${errno ?? String(cause)}`, options);
}
