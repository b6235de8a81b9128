import type { Readable } from 'node:stream';
import { abortError, UnpackError } from '../errors.ts';
import { watchSilence } from './silence.ts';

/** Bytes kept ready for a busy consumer before the connection is told to wait, unless the caller says otherwise. */
const READ_AHEAD = 1024 * 1024;

export interface ResponseBodyOptions {
  /** What is being read, for messages. */
  readonly what: string;
  /** Longest time in milliseconds that a read waits for bytes; the time the consumer is busy does not count. */
  readonly idleTimeout: number;
  readonly signal?: AbortSignal | undefined;
  readonly readAhead?: number;
}

/**
 * The bytes of a response, in the chunks that the socket gave. Node's own iterator joins what has piled up while the
 * consumer was busy, which copies every byte once more; here chunks wait in a row as they are.
 *
 * Waiting (a read is pending, the row is empty) → a chunk, the end, an error, silence or an abort ends the wait.
 * @throws UnpackError SOURCE_UNAVAILABLE for a broken or silent connection; what the signal's reason says
 */
export function responseBody(body: Readable, options: ResponseBodyOptions): AsyncIterableIterator<Buffer, undefined> {
  const { what, idleTimeout, signal, readAhead = READ_AHEAD } = options;
  const row: Buffer[] = [];
  let ahead = 0;
  let ended = false;
  let failure: UnpackError | undefined;
  let wake: (() => void) | undefined;

  const silence = watchSilence(idleTimeout, () =>
    fail(new UnpackError('SOURCE_UNAVAILABLE', `${what}: no bytes came for ${idleTimeout / 1000} s`)),
  );
  const settle = () => {
    wake?.();
    wake = undefined;
  };
  const fail = (error: UnpackError) => {
    if (ended) return;
    failure ??= error;
    release();
    settle();
  };
  const onAbort = () => {
    if (signal !== undefined) fail(abortError(signal));
    row.length = 0;
  };
  const release = () => {
    silence.disarm();
    signal?.removeEventListener('abort', onAbort);
    body.destroy();
  };

  body.on('data', (chunk: Buffer) => {
    row.push(chunk);
    ahead += chunk.length;
    if (ahead >= readAhead) body.pause();
    settle();
  });
  body.once('end', () => {
    ended = true;
    silence.disarm();
    signal?.removeEventListener('abort', onAbort);
    settle();
  });
  // stays for the stream's whole life: an error after its destruction must not end the process
  body.on('error', (cause: Error) =>
    fail(new UnpackError('SOURCE_UNAVAILABLE', `${what}: the connection broke (${cause.message})`, { cause })),
  );
  body.once('close', () => {
    if (!ended) fail(new UnpackError('SOURCE_UNAVAILABLE', `${what}: the connection was closed early`));
  });
  if (signal?.aborted) onAbort();
  else signal?.addEventListener('abort', onAbort, { once: true });

  return {
    async next() {
      if (row.length === 0 && !ended && failure === undefined) {
        silence.arm();
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        silence.disarm();
      }
      const chunk = row.shift();
      if (chunk !== undefined) {
        ahead -= chunk.length;
        if (ahead < readAhead && body.isPaused()) body.resume();
        return { done: false, value: chunk };
      }
      if (failure !== undefined) throw failure;
      return { done: true, value: undefined };
    },
    async return() {
      if (!ended) failure ??= new UnpackError('INTERNAL', `${what}: the read was given up`);
      row.length = 0;
      release();
      settle();
      return { done: true, value: undefined };
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}
