import { MalformedResponseError } from './response-head.ts';

/** Maximum length of one line in bytes: the size of a chunk with its extensions, or a trailer field. */
const LINE_LIMIT = 4096;
/** Chunks of up to 2^52 bytes. */
const SIZE = /^([0-9a-f]{1,13})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?$/i;

/**
 * Decodes a body in chunks (RFC 9112, 7.1), for a connection. The input can come in any pieces.
 *
 *     size → data → data-end → size; a size of 0 → trailer → done
 */
export class ChunkedDecoder {
  #state: 'size' | 'data' | 'data-end' | 'trailer' | 'done' = 'size';
  /** Number of missing bytes of the current chunk. */
  #left = 0;
  /** The received part of the current line. */
  #line = '';

  /** Whether the last chunk and the trailer were received. */
  get done(): boolean {
    return this.#state === 'done';
  }

  /**
   * @param onData called with each part of the body
   * @throws MalformedResponseError for data that is not in chunks, and for bytes after the last chunk
   */
  write(bytes: Buffer, onData: (data: Buffer) => void): void {
    for (let at = 0; at < bytes.length; ) {
      if (this.#state === 'done') throw new MalformedResponseError('is longer than its headers say');
      if (this.#state === 'data') {
        const data = bytes.subarray(at, at + this.#left);
        at += data.length;
        this.#left -= data.length;
        if (this.#left === 0) this.#state = 'data-end';
        onData(data);
      } else {
        const end = bytes.indexOf(0x0a, at);
        const until = end < 0 ? bytes.length : end + 1;
        this.#line += bytes.toString('latin1', at, until);
        at = until;
        if (this.#line.length > LINE_LIMIT) throw new MalformedResponseError('has a chunk with a line too long');
        if (end >= 0) this.#readLine();
      }
    }
  }

  #readLine(): void {
    if (!this.#line.endsWith('\r\n')) throw new MalformedResponseError('has a malformed chunk');
    const line = this.#line.slice(0, -2);
    this.#line = '';
    switch (this.#state) {
      case 'size': {
        const size = SIZE.exec(line)?.[1];
        if (size === undefined) throw new MalformedResponseError('has a malformed chunk');
        this.#left = Number.parseInt(size, 16);
        this.#state = this.#left === 0 ? 'trailer' : 'data';
        break;
      }
      case 'data-end':
        if (line !== '') throw new MalformedResponseError('has a chunk that is longer than its size');
        this.#state = 'size';
        break;
      case 'trailer':
        // the fields of the trailer are ignored
        if (line === '') this.#state = 'done';
        break;
    }
  }
}
