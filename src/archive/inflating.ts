import type { Transform } from 'node:stream';
import { UnpackError } from '../errors.ts';
import { endsTooEarly } from './members.ts';

/**
 * Options of Node's zlib streams, for gzip.ts and zstd.ts. Node's default pieces of 16 KiB cost a third of the speed
 * (measured with 1.3 GB of tar). `highWaterMark` lets decompression continue while the last piece is written to disk:
 * up to 4 MiB of output are buffered.
 */
export const INFLATE_OPTIONS = { chunkSize: 1 << 20, highWaterMark: 4 << 20 };

/**
 * Yields the output of a decompression stream while `feed` writes the input. If the stream or `feed` fails, or if the
 * reader stops, the stream is destroyed and `feed` stops.
 * @param explain makes the error for an error of the stream; `undefined` means LAYER_CORRUPT
 */
export async function* inflating(
  stream: Transform,
  name: string,
  feed: (stream: Transform) => Promise<void>,
  explain: (error: unknown) => UnpackError | undefined,
): AsyncGenerator<Buffer> {
  let fed: unknown;
  const feeding = feed(stream).catch((error: unknown) => {
    fed = error;
    stream.destroy(error instanceof Error ? error : new Error(String(error)));
  });
  try {
    for await (const chunk of stream) yield chunk as Buffer;
  } catch (error) {
    if (fed !== undefined) throw fed;
    if (OUT_OF_MEMORY.has(codeOf(error))) throw outOfMemory(name, error);
    if (codeOf(error) === 'Z_BUF_ERROR') throw endsTooEarly(name);
    const why = error instanceof Error ? error.message : String(error);
    throw explain(error) ?? new UnpackError('LAYER_CORRUPT', `the ${name} data is corrupt: ${why}`, { cause: error });
  } finally {
    stream.destroy();
    await feeding;
  }
  if (fed !== undefined) throw fed;
}

const OUT_OF_MEMORY = new Set<unknown>(['Z_MEM_ERROR', 'ZSTD_error_memory_allocation']);

/** The error for a decompressor that got no memory. The layer is possibly valid. */
export function outOfMemory(name: string, cause?: unknown): UnpackError {
  return new UnpackError(
    'STORE_FAILED',
    `no memory is left to decompress ${name} data: lower UNPACK_JOBS and UNPACK_THREADS, or give the machine or the container more`,
    { cause },
  );
}

export const codeOf = (error: unknown): unknown => (error as NodeJS.ErrnoException).code;

/** Writes one piece and waits until the stream has consumed the piece, has closed or has failed. */
export function writeWhole(stream: Transform, piece: Buffer): Promise<'taken' | 'ended'> {
  return new Promise((resolve) => {
    if (stream.destroyed || stream.readableEnded) {
      resolve('ended');
      return;
    }
    const settle = (result: 'taken' | 'ended') => () => {
      stream.off('end', ended);
      stream.off('close', ended);
      resolve(result);
    };
    const ended = settle('ended');
    stream.once('end', ended);
    stream.once('close', ended);
    stream.write(piece, settle('taken'));
  });
}
