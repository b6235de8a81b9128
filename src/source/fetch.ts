import { throwIfAborted, toUnpackError, UnpackError } from '../errors.ts';
import { sameEtag } from '../http/response-head.ts';
import { algorithmOf, type BlobDigest, shortDigest } from '../oci/digest.ts';
import { type StreamHash, streamHash } from '../system/stream-hash.ts';
import type { BlobSource, BlobStream } from './blob-source.ts';
import { looksLikeErrorPage } from './error-page.ts';
import { backOff, gaveUp } from './retry.ts';

/**
 * If an answer is cut short after at least this number of bytes, the rest is requested at once, and the request does
 * not count as a retry.
 */
const GOOD_PROGRESS = 64 * 1024;

/**
 * Counts the bytes, the resumes and the waiting time of one download. The caller owns the object and can read it at any
 * time.
 */
export class FetchStatistics {
  /** Number of bytes of the blob that have arrived. A byte that arrives twice counts once. */
  bytes = 0;
  requests = 0;
  /** Number of requests that continued or repeated a failed request. */
  resumes = 0;
  #waitedMs = 0;
  #waitingSince: number | undefined;

  /**
   * Total time in milliseconds that the consumer has waited for bytes: connections, idle times and pauses before
   * retries. If the download reads in advance, subtract only values that were read while no read was in progress.
   */
  get waitMs(): number {
    return this.#waitedMs + (this.#waitingSince === undefined ? 0 : performance.now() - this.#waitingSince);
  }

  /** Only for Download: the consumer waits from now on. */
  beginWait(): void {
    this.#waitingSince = performance.now();
  }

  /** Only for Download: the consumer no longer waits. */
  endWait(): void {
    this.#waitedMs = this.waitMs;
    this.#waitingSince = undefined;
  }
}

export interface FetchOptions {
  readonly signal?: AbortSignal | undefined;
  /**
   * Maximum number of resumes in a row without a new byte. A download that makes progress can be resumed any number of
   * times. Default: the value of the source.
   */
  readonly maxResumes?: number | undefined;
  /** Pause in milliseconds before the first resume. The pause doubles while there is no progress. */
  readonly firstDelay?: number | undefined;
  /** Called with the length of each chunk before it is yielded. */
  readonly onBytes?: ((count: number) => void) | undefined;
  readonly statistics?: FetchStatistics | undefined;
  /** Called when a request continues or repeats a failed one. */
  readonly onResume?: (() => void) | undefined;
  /** Whether all cores are busy. If not, chunks are hashed on another thread while the consumer works. Default: busy. */
  readonly busy?: (() => boolean) | undefined;
  /** Called with the size that the source reports, before the first chunk. It can throw to refuse the size. */
  readonly checkSize?: ((size: number | undefined) => void) | undefined;
}

/**
 * The bytes of a blob, in the chunks of the source, without copying. A chunk is valid until the next one is requested.
 * Size and digest are checked while the bytes stream. The caller can use each chunk at once, but must discard all
 * results if the generator throws. After a broken connection, a short answer, a 5xx or throttling the download
 * continues from the last byte. Leaving the loop early or aborting closes the connection.
 * @param blob without `size`, the size that the source reports is used until the digest proves it
 * @throws UnpackError BLOB_SIZE_MISMATCH (before the first byte if the source reports another size, or with the first byte too
 *   many), BLOB_DIGEST_MISMATCH (after the last chunk; at once if the object was replaced during the download),
 * BLOB_NOT_FOUND, SOURCE_DENIED, SOURCE_UNAVAILABLE if the download cannot continue, the reason of the signal
 */
export async function* fetchBlob(
  source: BlobSource,
  blob: { readonly digest: BlobDigest; readonly size?: number | undefined },
  options: FetchOptions = {},
): AsyncGenerator<Buffer, void, undefined> {
  const download = new Download(source, blob.digest, blob.size, options);
  try {
    for (let chunk = await download.pull(); chunk !== undefined; chunk = await download.pull()) yield chunk;
  } finally {
    await download.end();
  }
}

/**
 * The download of one blob:
 *
 *     disconnected ──open──▶ reading ──last byte──▶ verified
 *          ▲                    │
 *          └──failure, pause────┘        from each of them ──end()──▶ ended
 *
 * After a failure for which a retry can help, the received bytes are kept and the rest is requested.
 */
class Download {
  readonly #source: BlobSource;
  readonly #digest: BlobDigest;
  readonly #options: FetchOptions;
  readonly #statistics: FetchStatistics;
  readonly #hash: StreamHash;
  #state: 'disconnected' | 'reading' | 'verified' | 'ended' = 'disconnected';
  /** The pending hashing of the last chunk on another thread. */
  #hashing: Promise<void> | undefined;
  #size: number | undefined;
  #etag: string | undefined;
  /** Explains a wrong digest or size in messages. */
  #hint = '';
  #isTar = false;
  /** The current answer, until its first bytes were checked. */
  #answer: BlobStream | undefined;
  /** Set in `reading`. */
  #chunks: AsyncIterator<Buffer> | undefined;
  #received = 0;
  /** Number of bytes to skip, because the source began at 0 again. */
  #toSkip = 0;
  #resumes = 0;
  /** `#received` when the last connection was opened, and when it broke. */
  #openedAt = 0;
  #brokenAt = 0;

  constructor(source: BlobSource, digest: BlobDigest, size: number | undefined, options: FetchOptions) {
    this.#source = source;
    this.#digest = digest;
    this.#size = size;
    this.#options = options;
    this.#statistics = options.statistics ?? new FetchStatistics();
    this.#hash = streamHash(algorithmOf(digest), options.busy === undefined ? 'here' : 'beside');
  }

  /** The next bytes; `undefined` when the blob is complete and verified. */
  async pull(): Promise<Buffer | undefined> {
    if (this.#state === 'ended' || this.#state === 'verified') throw new Error(`the download is ${this.#state}`);
    await this.#hashing;
    let chunk: Buffer | undefined;
    this.#statistics.beginWait();
    try {
      chunk = await this.#next();
    } finally {
      this.#statistics.endWait();
    }
    if (chunk === undefined) {
      this.#verify();
      return undefined;
    }
    this.#received += chunk.length;
    this.#statistics.bytes += chunk.length;
    if (this.#options.busy?.() ?? true) this.#hash.update(chunk);
    else this.#hashBeside(chunk);
    this.#options.onBytes?.(chunk.length);
    return chunk;
  }

  #hashBeside(chunk: Buffer): void {
    this.#hashing = this.#hash.updateBeside(chunk);
    // the next `pull` throws the error
    this.#hashing.catch(() => {});
  }

  async end(): Promise<void> {
    await this.#hashing?.catch(() => {});
    await this.#disconnect();
    this.#state = 'ended';
    this.#hash[Symbol.dispose]();
  }

  async #disconnect(): Promise<void> {
    const chunks = this.#chunks;
    this.#chunks = undefined;
    this.#state = 'disconnected';
    await chunks?.return?.();
  }

  async #next(): Promise<Buffer | undefined> {
    for (;;) {
      throwIfAborted(this.#options.signal);
      try {
        const chunks = this.#chunks ?? (await this.#connect());
        const read = await chunks.next();
        if (read.done === true) {
          if (this.#isComplete()) return undefined;
          await this.#disconnect();
          continue;
        }
        this.#checkBegin(read.value);
        const chunk = this.#skip(read.value);
        if (chunk.length === 0) continue;
        this.#refuseExcess(chunk);
        return chunk;
      } catch (thrown) {
        await this.#disconnect();
        const error = toUnpackError(thrown);
        // all bytes have arrived, but the answer is not closed yet
        if (error.code === 'SOURCE_UNAVAILABLE' && this.#received === this.#size) return undefined;
        await this.#recover(error);
      }
    }
  }

  async #connect(): Promise<AsyncIterator<Buffer>> {
    this.#statistics.requests += 1;
    const { signal } = this.#options;
    const stream = await this.#source.open(this.#digest, { offset: this.#received, etag: this.#etag, signal });
    const chunks = stream.chunks[Symbol.asyncIterator]();
    try {
      await this.#checkAnswer(stream, chunks);
    } catch (error) {
      await chunks.return?.();
      throw error;
    }
    this.#noteAlteration(stream);
    this.#answer = stream;
    this.#openedAt = this.#received;
    this.#toSkip = this.#received - stream.offset;
    this.#chunks = chunks;
    this.#state = 'reading';
    return chunks;
  }

  /** Checks what the source reports about the blob. */
  async #checkAnswer(stream: BlobStream, chunks: AsyncIterator<Buffer>): Promise<void> {
    this.#options.checkSize?.(stream.size);
    if (stream.size !== undefined && stream.size !== (this.#size ?? stream.size)) {
      this.#noteAlteration(stream);
      const { value } = await chunks.next();
      if (looksLikeErrorPage(value ?? Buffer.alloc(0), stream.contentType)) throw this.#errorPage();
      throw this.#wrongSize(`has ${stream.size}`, value);
    }
    if (stream.offset > this.#received) {
      throw this.#unavailable(
        `${this.#what}: bytes from ${this.#received} on were requested, and the answer begins at ${stream.offset}`,
      );
    }
  }

  #noteAlteration({ altered, etag }: BlobStream): void {
    // no error yet, because some servers change the ETag of the same object: the digest decides
    if (this.#etag !== undefined && etag !== undefined && !sameEtag(this.#etag, etag)) {
      this.#hint = ' (its ETag has changed: it was replaced while it was read)';
    }
    this.#etag ??= etag;
    if (altered !== undefined) this.#hint = ` (the server says that it has decompressed it: ${altered})`;
  }

  /** Checks whether the first bytes of an answer can be the blob's. */
  #checkBegin(begin: Buffer): void {
    const answer = this.#answer;
    if (answer === undefined) return;
    this.#answer = undefined;
    if (answer.offset !== 0) return;
    this.#isTar = isTar(begin);
    // if both sizes are known, they are equal, so the answer is no error page
    if (answer.size !== undefined && this.#size !== undefined) return;
    if (looksLikeErrorPage(begin, answer.contentType)) throw this.#errorPage();
    this.#size ??= answer.size;
  }

  #errorPage(): UnpackError {
    return this.#unavailable(`${this.#what}: the answer is an error page (HTML or XML) with a status of success`);
  }

  #skip(chunk: Buffer): Buffer {
    if (this.#toSkip === 0) return chunk;
    const skipped = Math.min(this.#toSkip, chunk.length);
    this.#toSkip -= skipped;
    return chunk.subarray(skipped);
  }

  /**
   * Called when the answer is complete.
   * @returns false to request the rest at once.
   * @throws UnpackError after a short answer without progress
   */
  #isComplete(): boolean {
    this.#size ??= this.#answer?.size;
    if (this.#size === undefined || this.#received >= this.#size) return true;
    if (this.#received - this.#openedAt >= GOOD_PROGRESS) {
      this.#countResume();
      return false;
    }
    throw this.#unavailable(`${this.#what} ended after ${this.#received} of ${this.#size} bytes`);
  }

  #refuseExcess(chunk: Buffer): void {
    const total = this.#received + chunk.length;
    if (this.#size === undefined || total <= this.#size) return;
    throw this.#wrongSize('sends more than that', this.#received === 0 ? chunk : undefined);
  }

  /** Waits before a resume. @throws UnpackError if a retry cannot help, or after too many resumes without progress */
  async #recover(error: UnpackError): Promise<void> {
    if (error.code !== 'SOURCE_UNAVAILABLE') throw error;
    if (this.#received > this.#brokenAt) this.#resumes = 0;
    this.#brokenAt = this.#received;
    const maxResumes = this.#options.maxResumes ?? this.#source.maxResumes;
    if (this.#resumes >= maxResumes) throw gaveUp(error.with({ digest: this.#digest }), this.#resumes);
    this.#resumes += 1;
    this.#countResume();
    await backOff(this.#resumes, this.#options.firstDelay, this.#options.signal);
  }

  #countResume(): void {
    this.#statistics.resumes += 1;
    this.#options.onResume?.();
  }

  #verify(): void {
    const actual = `${algorithmOf(this.#digest)}:${this.#hash.hex()}`;
    if (actual === this.#digest) {
      this.#state = 'verified';
      return;
    }
    throw new UnpackError(
      'BLOB_DIGEST_MISMATCH',
      `${this.#what} has other bytes, with the digest ${actual}${this.#hint}; upload the blob again`,
      { details: { digest: this.#digest, expected: this.#digest, actual } },
    );
  }

  /** @param begin the first bytes of the blob, if known */
  #wrongSize(fact: string, begin?: Buffer): UnpackError {
    if (this.#hint === '' && (this.#isTar || (begin !== undefined && isTar(begin)))) {
      this.#hint = ' (a plain tar: if the blob is compressed, the server or a proxy has decompressed it)';
    }
    return new UnpackError(
      'BLOB_SIZE_MISMATCH',
      `${this.#what} should be ${this.#size} bytes and the source ${fact}${this.#hint}; upload the blob again`,
      { details: { digest: this.#digest, expected: String(this.#size) } },
    );
  }

  #unavailable(sentence: string): UnpackError {
    return new UnpackError('SOURCE_UNAVAILABLE', sentence, { details: { digest: this.#digest } });
  }

  get #what(): string {
    return `blob ${shortDigest(this.#digest)} of ${this.#source.name}`;
  }
}

/** The magic of POSIX and GNU archives. A checksum is not needed, because it is only for a hint. */
function isTar(begin: Buffer): boolean {
  return begin.toString('latin1', 257, 262) === 'ustar';
}
