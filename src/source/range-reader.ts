import { UnpackError } from '../errors.ts';
import type { BlobStream } from './blob-source.ts';

/** Bytes of one ranged request: enough that its latency costs little, little enough to keep eight in memory. */
export const SEGMENT = 4 * 1024 * 1024;

/** Connections of one download at most. Memory is bounded by as many segments. */
const MOST_CONNECTIONS = 8;
const FIRST_CONNECTIONS = 2;

/** Milliseconds of waiting within one segment that call for more connections. */
const STARVED = 5;

/** Both ends are included; `to` left out: the end of the blob. */
export interface Range {
  readonly from: number;
  readonly to: number | undefined;
}

/**
 * The rest of a blob of which `first` is the first segment, in order, over several connections: one more segment is
 * asked for while one is read, and more of them, up to eight, while the reader has to wait. S3 gives a connection some
 * tens of megabytes a second however fast the machine is; a source that is fast enough is not asked more than it takes.
 */
export function readInSegments(
  first: BlobStream,
  size: number,
  request: (range: Range) => Promise<BlobStream>,
): BlobStream {
  return { ...first, chunks: segments(first, size, request) };
}

async function* segments(
  first: BlobStream,
  size: number,
  request: (range: Range) => Promise<BlobStream>,
): AsyncGenerator<Buffer> {
  const row: Promise<BlobStream>[] = [Promise.resolve(first)];
  let next = first.offset + SEGMENT;
  let connections = FIRST_CONNECTIONS;
  const askAhead = (): void => {
    while (row.length < connections && next < size) {
      const range = { from: next, to: Math.min(next + SEGMENT, size) - 1 };
      const asked = request(range).then((stream) => checked(stream, range, size));
      // told when its turn comes
      asked.catch(() => {});
      row.push(asked);
      next += SEGMENT;
    }
  };
  try {
    for (let expected = first.offset; row.length > 0; expected += SEGMENT) {
      askAhead();
      let waited = 0;
      let left = Math.min(SEGMENT, size - expected);
      const began = performance.now();
      const stream = await row[0];
      waited += performance.now() - began;
      if (stream === undefined) return;
      const chunks = stream.chunks[Symbol.asyncIterator]();
      for (;;) {
        const asked = performance.now();
        const chunk = await chunks.next();
        waited += performance.now() - asked;
        if (chunk.done) break;
        left -= chunk.value.length;
        yield chunk.value;
      }
      // too much is for the reader to refuse; too little is a broken connection, continued from the last byte
      if (left > 0) throw new UnpackError('SOURCE_UNAVAILABLE', `a ranged answer ended ${left} bytes early`);
      row.shift();
      if (waited > STARVED) connections = Math.min(connections * 2, MOST_CONNECTIONS);
    }
  } finally {
    for (const asked of row) {
      asked.then(
        (stream) => stream.chunks[Symbol.asyncIterator]().return?.(),
        () => {},
      );
    }
  }
}

function checked(stream: BlobStream, range: Range, size: number): BlobStream {
  if (stream.offset === range.from && stream.size === size) return stream;
  void stream.chunks[Symbol.asyncIterator]().return?.();
  throw new UnpackError(
    'SOURCE_UNAVAILABLE',
    `asked for bytes from ${range.from} of ${size} on, the answer has ${stream.offset} of ${stream.size ?? 'unknown'}`,
  );
}
