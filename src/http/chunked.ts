import { MalformedResponseError } from './response-head.ts';

/** Bytes of one line: of a chunk's size with its extensions, or of a trailer field. */
const LINE_LIMIT = 4096;
/** Up to 2^52 bytes in a chunk. */
const SIZE = /^([0-9a-f]{1,13})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?$/i;

/** A body in chunks (RFC 9112, 7.1), in bytes that come in any pieces. */
export class ChunkedDecoder {
  #state: 'size' | 'data' | 'data-end' | 'trailer' | 'done' = 'size';
  /** Bytes of the chunk that are still to come. */
  #left = 0;
  /** What there is of the current line. */
  #line = '';

  /** The last chunk and the trailer have come. */
  get done(): boolean {
    return this.#state === 'done';
  }

  /** @param take is given what belongs to the body @throws MalformedResponseError for anything else than chunks, more bytes too */
  write(bytes: Buffer, take: (data: Buffer) => void): void {
    for (let at = 0; at < bytes.length; ) {
      if (this.#state === 'done') throw new MalformedResponseError('is longer than it says');
      if (this.#state === 'data') {
        const data = bytes.subarray(at, at + this.#left);
        at += data.length;
        this.#left -= data.length;
        if (this.#left === 0) this.#state = 'data-end';
        take(data);
      } else {
        const end = bytes.indexOf(0x0a, at);
        const until = end < 0 ? bytes.length : end + 1;
        this.#line += bytes.toString('latin1', at, until);
        at = until;
        if (this.#line.length > LINE_LIMIT) throw new MalformedResponseError('has a chunk with a line too long');
        if (end >= 0) this.#takeLine();
      }
    }
  }

  #takeLine(): void {
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
        if (line !== '') throw new MalformedResponseError('has a chunk longer than it says');
        this.#state = 'size';
        break;
      case 'trailer':
        // its fields mean nothing here
        if (line === '') this.#state = 'done';
        break;
    }
  }
}
