import { closeSync, constants, fsyncSync, openSync, readSync, writeSync } from 'node:fs';

const NEW_FILE = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;

/** A new file that is read and written at any place; for one thread. */
export class ImageFile implements Disposable {
  readonly #fd: number;

  /** @param path of a file that does not exist @throws system errors */
  constructor(path: string) {
    this.#fd = openSync(path, NEW_FILE, 0o600);
  }

  writeAt(bytes: Buffer, at: number): void {
    for (let done = 0; done < bytes.length; ) {
      done += writeSync(this.#fd, bytes, done, bytes.length - done, at + done);
    }
  }

  readAt(at: number, into: Buffer): void {
    readWhole(this.#fd, at, into);
  }

  /** Returns when the content is on disk. */
  sync(): void {
    fsyncSync(this.#fd);
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

/** Fills a buffer from an open file. @throws Error if the file ends before */
export function readWhole(fd: number, at: number, into: Buffer): void {
  if (readUpTo(fd, at, into).length < into.length) throw new Error(`the file ends before byte ${at + into.length}`);
}

/** Reads into a buffer. @returns the part that was read: less than the buffer at the end of the file */
export function readUpTo(fd: number, at: number, into: Buffer): Buffer {
  let done = 0;
  while (done < into.length) {
    const read = readSync(fd, into, done, into.length - done, at + done);
    if (read === 0) break;
    done += read;
  }
  return into.subarray(0, done);
}
