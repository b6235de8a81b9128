import type { FileHandle } from 'node:fs/promises';
import { UnpackError } from '../errors.ts';
import { DOCUMENT_LIMIT } from '../oci/manifest.ts';

/** A blob on this machine with random access: a file, a part of an archive, or bytes in memory. */
export interface LocalBlob {
  readonly size: number;
  /** Exactly `length` bytes. The caller stays within `size`. */
  read(offset: number, length: number): Promise<Buffer>;
}

/** Finds a file by its path in a folder or an archive. `undefined` if there is none. */
export type FindFile = (name: string) => Promise<LocalBlob | undefined>;

/** Reads a small blob into memory. @throws UnpackError LIMIT_EXCEEDED if it is longer than `limit` */
export async function readWhole(blob: LocalBlob, what: string, limit = DOCUMENT_LIMIT): Promise<Buffer> {
  if (blob.size <= limit) return blob.read(0, blob.size);
  throw new UnpackError('LIMIT_EXCEEDED', `${what} has ${blob.size} bytes; the limit is ${limit}`);
}

export function memoryBlob(bytes: Buffer): LocalBlob {
  return { size: bytes.length, read: async (offset, length) => bytes.subarray(offset, offset + length) };
}

/** `size` bytes of an open file from `start` on. The caller keeps the file open. @param what names it in messages */
export function fileBlob(file: FileHandle, start: number, size: number, what: string): LocalBlob {
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
