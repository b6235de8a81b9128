/** Overwrites lent memory. It is not zero, as padding is, and no format begins with it. */
export const OVERWRITTEN = 0xa5;

/**
 * Bytes as a source lends them, in pieces of the given lengths; the last length repeats. A piece is valid until the next
 * `next()` (`BlobStream.chunks`). Here it is overwritten then, and at the end, so that a reader that keeps bytes without a
 * copy reads wrong ones.
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

/** The same as a synchronous generator: each piece is overwritten when the loop continues. */
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

/** All ways to cut `bytes` into two pieces. */
export function* cutOnce(bytes: Buffer, from = 1, to = bytes.length): Generator<AsyncIterableIterator<Buffer>> {
  for (let at = Math.max(1, from); at <= to; at++) yield lent(bytes, at, bytes.length);
}

/** Copies and joins pieces that are only valid until the next one. */
export async function readAll(pieces: AsyncIterable<Buffer>): Promise<Buffer> {
  const copies: Buffer[] = [];
  for await (const piece of pieces) copies.push(Buffer.from(piece));
  return Buffer.concat(copies);
}
