/** What overwrites memory that was lent: neither zeros, which padding is, nor anything that a format begins with. */
const OVERWRITTEN = 0xa5;

/**
 * Bytes as a source lends them, in pieces of the given lengths, the last length again and again: a piece is valid until
 * the next is asked for (`BlobStream.chunks`). Here it is overwritten then, and when the reading ends, so that whoever keeps
 * bytes without copying them reads nonsense.
 */
export function lent(bytes: Buffer, ...lengths: readonly number[]): AsyncIterableIterator<Buffer> {
  let at = 0;
  let index = 0;
  let before: Buffer | undefined;
  const takeBack = (): void => {
    before?.fill(OVERWRITTEN);
    before = undefined;
  };
  return {
    async next() {
      takeBack();
      if (at >= bytes.length) return { done: true, value: undefined };
      const length = lengths[Math.min(index++, lengths.length - 1)] ?? bytes.length;
      const piece = Buffer.from(bytes.subarray(at, at + length));
      at += length;
      before = piece;
      return { done: false, value: piece };
    },
    async return() {
      takeBack();
      at = bytes.length;
      return { done: true, value: undefined };
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

/** The same for a reader that is given piece after piece: each is overwritten once the loop goes on. */
export function* lentNow(bytes: Buffer, cut = bytes.length): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += cut) {
    const piece = Buffer.from(bytes.subarray(at, at + cut));
    try {
      yield piece;
    } finally {
      piece.fill(OVERWRITTEN);
    }
  }
}

/** Every byte of `bytes` once at the end of the first piece, the others of one length: all ways to cut something in two. */
export function* cutOnce(bytes: Buffer, from = 1, to = bytes.length): Generator<AsyncIterableIterator<Buffer>> {
  for (let at = Math.max(1, from); at <= to; at++) yield lent(bytes, at, bytes.length);
}

/** What is read of pieces that are only valid until the next is asked for. */
export async function readAll(pieces: AsyncIterable<Buffer>): Promise<Buffer> {
  const copies: Buffer[] = [];
  for await (const piece of pieces) copies.push(Buffer.from(piece));
  return Buffer.concat(copies);
}
