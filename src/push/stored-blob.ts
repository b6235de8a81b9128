import type { FileHandle } from 'node:fs/promises';
import { UnpackError } from '../errors.ts';
import { DOCUMENT_LIMIT } from '../oci/manifest.ts';

/** A blob on this machine that is read at random: a file, a part of an archive, or bytes that were made up. */
export interface StoredBlob {
  readonly size: number;
  /** Exactly `length` bytes; the caller stays within `size`. */
  read(offset: number, length: number): Promise<Buffer>;
}

/** All bytes of a small blob. @throws UnpackError LIMIT_EXCEEDED past `limit` bytes */
export async function whole(blob: StoredBlob, what: string, limit = DOCUMENT_LIMIT): Promise<Buffer> {
  if (blob.size <= limit) return blob.read(0, blob.size);
  throw new UnpackError('LIMIT_EXCEEDED', `${what} is ${blob.size} bytes long; it may have ${limit}`);
}

/** Bytes that are in memory already. */
export function madeBlob(bytes: Buffer): StoredBlob {
  return { size: bytes.length, read: async (offset, length) => bytes.subarray(offset, offset + length) };
}

/** Bytes of an open file from `start` on. */
export function fileBlob(file: FileHandle, start: number, size: number, what: string): StoredBlob {
  return {
    size,
    async read(offset, length) {
      const buffer = Buffer.allocUnsafeSlow(length);
      for (let done = 0; done < length; ) {
        const { bytesRead } = await file.read(buffer, done, length - done, start + offset + done);
        if (bytesRead === 0) throw new UnpackError('SOURCE_UNAVAILABLE', `${what} became shorter while it was read`);
        done += bytesRead;
      }
      return buffer;
    },
  };
}
