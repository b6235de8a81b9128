import { type BigIntStats, closeSync, constants, fstatSync, openSync, read as readOnThread, readSync } from 'node:fs';
import { throwIfAborted, UnpackError } from '../errors.ts';
import type { BlobDigest } from '../oci/digest.ts';
import { SpareBuffers } from '../system/spare-buffers.ts';
import type { BlobSource, BlobStream, OpenOptions } from './blob-source.ts';
import type { FileGrant } from './source-spec.ts';

/**
 * A read is a way to another thread and back, and so is what it feeds: with 256 KiB here and in the inflater a layer alone
 * took a sixth longer, and longer pieces than these gain nothing.
 */
const CHUNK = 1024 * 1024;
const CHUNKS = new SpareBuffers(CHUNK);

/** One blob that is a file, as a local layout lends it to another thread. A chunk is valid until the next is asked for. */
export function openFileGrant(spec: FileGrant): BlobSource {
  const only = (): never => {
    throw new UnpackError('INTERNAL', `${spec.name} was lent for one blob alone`);
  };
  return {
    name: spec.name,
    maxResumes: 0,
    open: (digest, options) => openFileBlob(spec.path, digest, options, true),
    grant: async () => spec,
    resolveTag: only,
    close: () => {},
  };
}

/**
 * Bytes of a blob's file from an offset on; its version (inode, time, size) stands for an etag.
 * @param reusing one buffer for all chunks: each is then valid until the next is asked for
 */
export async function openFileBlob(
  path: string,
  digest: BlobDigest,
  options: OpenOptions,
  reusing = false,
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
  const chunks = new FileChunks(file, path, { position: offset, size: Number(size), signal, reusing });
  return { size: Number(size), etag: version, offset, chunks };
}

function openFile(path: string, digest: BlobDigest): { readonly file: number; readonly status: BigIntStats } {
  let file: number;
  try {
    // without O_NONBLOCK a FIFO in the folder would hold the thread for ever
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

/** Not a generator: one that was never started would not run its `finally`, and the file would stay open. */
class FileChunks implements AsyncIterableIterator<Buffer, undefined> {
  #file: number;
  readonly #path: string;
  #position: number;
  /** Of the file, in bytes. What fits into one chunk is read on this thread: to ask another one takes longer. */
  readonly #size: number;
  readonly #signal: AbortSignal | undefined;
  readonly #reused: Buffer | undefined;
  #reading: Promise<number> | undefined;

  constructor(
    file: number,
    path: string,
    options: { position: number; size: number; signal: AbortSignal | undefined; reusing: boolean },
  ) {
    this.#file = file;
    this.#path = path;
    this.#position = options.position;
    this.#size = options.size;
    this.#signal = options.signal;
    this.#reused = options.reusing ? CHUNKS.take() : undefined;
  }

  async next(): Promise<IteratorResult<Buffer, undefined>> {
    if (this.#file < 0) return DONE;
    try {
      throwIfAborted(this.#signal);
      // unless told otherwise, a new buffer each time: the consumer keeps what it was given
      const buffer = this.#reused ?? Buffer.allocUnsafeSlow(Math.min(Math.max(this.#size, 1), CHUNK));
      const small = this.#size <= CHUNK;
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
    await this.#reading?.catch(() => {}); // it writes into the buffer until then
    if (this.#file < 0) return DONE;
    closeSync(this.#file);
    this.#file = -1;
    if (this.#reused !== undefined) CHUNKS.give(this.#reused);
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
