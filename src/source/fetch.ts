import { throwIfAborted, toUnpackError, UnpackError } from '../errors.ts';
import { sameTag } from '../http/response-head.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { algorithmOf, type BlobDigest, shortDigest } from '../oci/digest.ts';
import { type StreamHash, streamHash } from '../system/stream-hash.ts';
import type { BlobSource, BlobStream } from './blob-source.ts';
import type { DocumentCache } from './document-cache.ts';
import { looksLikeErrorPage } from './error-page.ts';
import { backOff, gaveUp } from './retry.ts';

/** Bytes of an answer that ends early from which on the rest is asked for at once. */
const WORTH_GOING_ON = 64 * 1024;

/** What a download has done so far; the caller owns it and may read it at any time. Counts only grow. */
export class FetchStatistics {
  /** Bytes of the blob that have arrived, each counted once. */
  bytes = 0;
  requests = 0;
  /** Requests that continued or repeated one that failed. */
  resumes = 0;
  #waitedMs = 0;
  #waitingSince: number | undefined;

  /**
   * Milliseconds in which the consumer wanted bytes and had none: connecting, silence and pauses between tries, up to
   * now. A consumer that asks ahead and works meanwhile takes the difference over the time in which it does nothing else.
   */
  get waitMs(): number {
    return this.#waitedMs + (this.#waitingSince === undefined ? 0 : performance.now() - this.#waitingSince);
  }

  /** For the download alone: bytes are asked for from now on. */
  asked(): void {
    this.#waitingSince = performance.now();
  }

  /** For the download alone: bytes are there, or there will be none. */
  answered(): void {
    this.#waitedMs = this.waitMs;
    this.#waitingSince = undefined;
  }
}

export interface FetchOptions {
  readonly signal?: AbortSignal | undefined;
  /**
   * How often in a row the download continues without a byte that is new. A long download over a poor line may so break
   * any number of times, a source that gives nothing is left soon. Default: the source's.
   */
  readonly maxResumes?: number | undefined;
  /** Milliseconds before the first resume; doubles while there is no progress. */
  readonly firstDelay?: number | undefined;
  /** Called with the length of each chunk before it is handed out. */
  readonly onBytes?: ((count: number) => void) | undefined;
  readonly statistics?: FetchStatistics | undefined;
  /** Whether every core has work, which is the default; where one has not, a chunk is digested there while it is used. */
  readonly busy?: (() => boolean) | undefined;
}

/**
 * The bytes of a blob, in the chunks that the source gives, not copied; each is valid until the next is asked for. Size
 * and digest are checked while they stream: the chunks can be used at once, and what was made of them believed when the
 * generator has ended without an error. A broken connection, an early end, a 5xx or throttling continues from the last
 * byte. Ending the loop early, or aborting, closes the connection.
 * @throws UnpackError BLOB_SIZE_MISMATCH (before any byte when the source tells another size, or with the first byte
 *   too many), BLOB_DIGEST_MISMATCH (after the last chunk; at once when the object was replaced meanwhile),
 *   BLOB_NOT_FOUND, SOURCE_DENIED, SOURCE_UNAVAILABLE when it can't be continued, what the signal's reason says
 */
export function fetchBlob(
  source: BlobSource,
  descriptor: Pick<Descriptor, 'digest' | 'size'>,
  options: FetchOptions = {},
): AsyncGenerator<Buffer, void, undefined> {
  return chunksOf(new Download(source, descriptor.digest, descriptor.size, undefined, options));
}

/**
 * A whole small document, verified: a manifest, a config. Without a size (only the digest is known) the source's word is
 * taken for it until the digest proves it.
 * @param options.limit most bytes that are read into memory
 * @param options.cache where verified documents are looked for first, and kept
 * @throws UnpackError LIMIT_EXCEEDED when it is longer than `limit`; and as fetchBlob
 */
export async function readBlob(
  source: BlobSource,
  wanted: BlobDigest | Pick<Descriptor, 'digest' | 'size'>,
  options: FetchOptions & { readonly limit: number; readonly cache?: DocumentCache | undefined },
): Promise<Buffer> {
  const { digest, size } = typeof wanted === 'string' ? { digest: wanted, size: undefined } : wanted;
  if (size !== undefined && size > options.limit) throw tooLong(source, digest, size, options.limit);
  const known = options.cache?.get(source.name, digest);
  // a descriptor that lies about the size is refused by the download
  if (known !== undefined && known.length === (size ?? known.length)) return known;
  const chunks: Buffer[] = [];
  for await (const chunk of chunksOf(new Download(source, digest, size, options.limit, options))) {
    chunks.push(Buffer.from(chunk));
  }
  const document = chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks);
  options.cache?.set(source.name, digest, document);
  return document;
}

async function* chunksOf(download: Download): AsyncGenerator<Buffer, void, undefined> {
  try {
    for (let chunk = await download.pull(); chunk !== undefined; chunk = await download.pull()) yield chunk;
  } finally {
    await download.end();
  }
}

/**
 * One blob on its way. Idle (no connection) → open → reading, chunk by chunk → done; a failure that can be repaired
 * leads from anywhere back to idle after a pause, with what has arrived kept.
 */
class Download {
  readonly #source: BlobSource;
  readonly #digest: BlobDigest;
  readonly #limit: number | undefined;
  readonly #options: FetchOptions;
  readonly #statistics: FetchStatistics;
  readonly #hash: StreamHash;
  /** The last chunk is being digested. */
  #hashing: Promise<void> | undefined;
  #size: number | undefined;
  #etag: string | undefined;
  /** What makes a wrong digest or size understandable. */
  #hint = '';
  #isTar = false;
  /** Of the answer that is being read, until its first bytes have been looked at. */
  #answer: BlobStream | undefined;
  #chunks: AsyncIterator<Buffer> | undefined;
  #received = 0;
  /** Bytes that are still to come a second time, from a source that began at 0 again. */
  #toSkip = 0;
  #resumes = 0;
  /** What had been received when the last connection was opened, and when it broke. */
  #openedAt = 0;
  #brokenAt = 0;

  constructor(
    source: BlobSource,
    digest: BlobDigest,
    size: number | undefined,
    limit: number | undefined,
    options: FetchOptions,
  ) {
    this.#source = source;
    this.#digest = digest;
    this.#size = size;
    this.#limit = limit;
    this.#options = options;
    this.#statistics = options.statistics ?? new FetchStatistics();
    this.#hash = streamHash(algorithmOf(digest), options.busy === undefined ? 'here' : 'beside');
  }

  /** The next bytes; `undefined` when all have come and are what the digest says. */
  async pull(): Promise<Buffer | undefined> {
    await this.#hashing;
    let chunk: Buffer | undefined;
    this.#statistics.asked();
    try {
      chunk = await this.#next();
    } finally {
      this.#statistics.answered();
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
    // told when the next chunk is asked for
    this.#hashing.catch(() => {});
  }

  /** Ends it for good. */
  async end(): Promise<void> {
    await this.#hashing?.catch(() => {});
    await this.close();
    this.#hash[Symbol.dispose]();
  }

  /** Closes the connection; another may be opened. */
  async close(): Promise<void> {
    const chunks = this.#chunks;
    this.#chunks = undefined;
    await chunks?.return?.();
  }

  async #next(): Promise<Buffer | undefined> {
    for (;;) {
      throwIfAborted(this.#options.signal);
      try {
        this.#chunks ??= await this.#open();
        const read = await this.#chunks.next();
        if (read.done === true) {
          if (this.#ended()) return undefined;
          await this.close();
          continue;
        }
        this.#lookAt(read.value);
        const chunk = this.#skip(read.value);
        if (chunk.length === 0) continue;
        this.#refuseExcess(chunk);
        return chunk;
      } catch (thrown) {
        await this.close();
        const error = toUnpackError(thrown);
        // nothing is missing when all bytes have come and only the end of the answer has not
        if (error.code === 'SOURCE_UNAVAILABLE' && this.#received === this.#size) return undefined;
        await this.#recover(error);
      }
    }
  }

  async #open(): Promise<AsyncIterator<Buffer>> {
    this.#statistics.requests += 1;
    const { signal } = this.#options;
    const stream = await this.#source.open(this.#digest, { offset: this.#received, etag: this.#etag, signal });
    const chunks = stream.chunks[Symbol.asyncIterator]();
    try {
      if (stream.size !== undefined && this.#limit !== undefined && stream.size > this.#limit) {
        throw tooLong(this.#source, this.#digest, stream.size, this.#limit);
      }
      if (stream.size !== undefined && stream.size !== (this.#size ?? stream.size)) {
        this.#noteAlteration(stream);
        const { value } = await chunks.next();
        if (looksLikeErrorPage(value ?? Buffer.alloc(0), stream.contentType)) throw this.#errorPage();
        throw this.#wrongSize(`holds ${stream.size}`, value);
      }
      if (stream.offset > this.#received) {
        const asked = `${this.#what} answered with bytes from ${stream.offset} on when asked from ${this.#received} on`;
        throw new UnpackError('SOURCE_UNAVAILABLE', asked, { details: { digest: this.#digest } });
      }
    } catch (error) {
      await chunks.return?.();
      throw error;
    }
    this.#noteAlteration(stream);
    this.#answer = stream;
    this.#openedAt = this.#received;
    this.#toSkip = this.#received - stream.offset;
    return chunks;
  }

  #noteAlteration({ altered, etag }: BlobStream): void {
    // the digest will tell: servers make other ETags of the same object, too
    if (this.#etag !== undefined && etag !== undefined && !sameTag(this.#etag, etag)) {
      this.#hint = ' (its ETag has changed: it was replaced while it was read)';
    }
    this.#etag ??= etag;
    if (altered !== undefined) this.#hint = ` (the server says that it has unzipped it: ${altered})`;
  }

  /** The first bytes of an answer, before they are believed to be the blob's. */
  #lookAt(begin: Buffer): void {
    const answer = this.#answer;
    if (answer === undefined) return;
    this.#answer = undefined;
    if (answer.offset !== 0) return;
    this.#isTar = isTar(begin);
    if (answer.size !== undefined && this.#size !== undefined) return;
    // who says nothing of the size, or is asked by the digest alone
    if (looksLikeErrorPage(begin, answer.contentType)) throw this.#errorPage();
    this.#size ??= answer.size;
  }

  #errorPage(): UnpackError {
    return new UnpackError(
      'SOURCE_UNAVAILABLE',
      `${this.#what}: the answer is an error page (HTML or XML) with the status of success`,
      { details: { digest: this.#digest } },
    );
  }

  #skip(chunk: Buffer): Buffer {
    if (this.#toSkip === 0) return chunk;
    const skipped = Math.min(this.#toSkip, chunk.length);
    this.#toSkip -= skipped;
    return chunk.subarray(skipped);
  }

  /** @returns whether all is there; otherwise the rest is asked for at once, since what came is right as far as it goes */
  #ended(): boolean {
    this.#size ??= this.#answer?.size;
    if (this.#size !== undefined && this.#received < this.#size) {
      if (this.#received - this.#openedAt >= WORTH_GOING_ON) {
        this.#statistics.resumes += 1;
        return false;
      }
      throw new UnpackError(
        'SOURCE_UNAVAILABLE',
        `${this.#what} ended after ${this.#received} of ${this.#size} bytes`,
        { details: { digest: this.#digest } },
      );
    }
    return true;
  }

  #refuseExcess(chunk: Buffer): void {
    const total = this.#received + chunk.length;
    if (this.#size !== undefined && total > this.#size) {
      throw this.#wrongSize('sends more than that', this.#received === 0 ? chunk : undefined);
    }
    if (this.#limit !== undefined && total > this.#limit) {
      throw tooLong(this.#source, this.#digest, total, this.#limit);
    }
  }

  async #recover(error: UnpackError): Promise<void> {
    if (error.code !== 'SOURCE_UNAVAILABLE') throw error;
    if (this.#received > this.#brokenAt) this.#resumes = 0;
    this.#brokenAt = this.#received;
    const most = this.#options.maxResumes ?? this.#source.maxResumes;
    if (this.#resumes >= most) throw gaveUp(error.with({ digest: this.#digest }), this.#resumes);
    this.#resumes += 1;
    this.#statistics.resumes += 1;
    await backOff(this.#resumes, this.#options.firstDelay, this.#options.signal);
  }

  #verify(): void {
    const actual = `${algorithmOf(this.#digest)}:${this.#hash.hex()}`;
    if (actual === this.#digest) return;
    throw new UnpackError(
      'BLOB_DIGEST_MISMATCH',
      `${this.#what} holds other bytes: they have the digest ${actual}${this.#hint}; upload the blob again`,
      { details: { digest: this.#digest, expected: this.#digest, actual } },
    );
  }

  /** @param begin the first bytes of the blob, where these are known */
  #wrongSize(fact: string, begin?: Buffer): UnpackError {
    if (this.#hint === '' && (this.#isTar || (begin !== undefined && isTar(begin)))) {
      this.#hint = ' (a plain tar: if the blob is a compressed one, the server or a proxy has unzipped it)';
    }
    return new UnpackError(
      'BLOB_SIZE_MISMATCH',
      `${this.#what} should be ${this.#size} bytes and the source ${fact}${this.#hint}; upload the blob again`,
      { details: { digest: this.#digest, expected: String(this.#size) } },
    );
  }

  get #what(): string {
    return `blob ${shortDigest(this.#digest)} of ${this.#source.name}`;
  }
}

/** The magic of POSIX and GNU archives. */
function isTar(begin: Buffer): boolean {
  return begin.toString('latin1', 257, 262) === 'ustar';
}

function tooLong(source: BlobSource, digest: BlobDigest, size: number, limit: number): UnpackError {
  return new UnpackError(
    'LIMIT_EXCEEDED',
    `blob ${shortDigest(digest)} of ${source.name} is ${size} bytes or more; a document of its kind may have ${limit}`,
    { details: { digest } },
  );
}
