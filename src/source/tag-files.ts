import { toUnpackError, UnpackError } from '../errors.ts';
import type { BlobStream } from './blob-source.ts';
import { looksLikeErrorPage } from './error-page.ts';
import type { ObjectDownloader } from './object-downloader.ts';
import { collect } from './read-blob.ts';
import { RequestCoalescer } from './request-coalescer.ts';
import { backOff, gaveUp } from './retry.ts';
import type { SignatureRefusal, SignedUrl } from './source-spec.ts';

/** A signed URL is reused for this number of milliseconds. The time is short, so that new credentials are used soon. */
const URL_REUSED_FOR = 60_000;
/**
 * Maximum number of cached URLs. Signing a URL takes half a millisecond (measured), and each URL needs some hundred
 * bytes.
 */
const URLS_KEPT = 2000;

/** Signs a URL for a key. @param refused the refusal of the last URL by the server @throws UnpackError SOURCE_DENIED */
type Sign = (key: string, refused?: SignatureRefusal) => Promise<SignedUrl>;

interface TagFile {
  readonly bytes: Buffer;
  /** Whether the answer had a length. If so, it was received completely. */
  readonly complete: boolean;
  readonly contentType: string | undefined;
}

/**
 * Reads the small files of a bucket that map tags to digests. These files can change at any time, so a read gets the
 * answer of a request that starts after the call. Simultaneous reads of one file share a request (RequestCoalescer).
 *
 * No digest verifies these files. A file that cannot be parsed is therefore read again. Only if all tries return the same bytes,
 * the file itself is malformed.
 */
export class TagFiles {
  readonly #downloader: ObjectDownloader;
  readonly #sign: Sign;
  readonly #maxResumes: number;
  readonly #reads = new RequestCoalescer<unknown>();
  readonly #urls = new Map<string, { readonly url: Promise<SignedUrl>; readonly until: number }>();

  /** @param maxResumes retries after the first try */
  constructor(downloader: ObjectDownloader, sign: Sign, maxResumes: number) {
    this.#downloader = downloader;
    this.#sign = sign;
    this.#maxResumes = maxResumes;
  }

  /**
   * @param limit maximum size in bytes; the same in all calls for a key
   * @param parse the same in all calls for a key; throws MANIFEST_INVALID for malformed bytes
   * @throws UnpackError LIMIT_EXCEEDED; MANIFEST_INVALID; and as `BlobSource.open`, SOURCE_UNAVAILABLE after several tries
   */
  async read<T>(key: string, limit: number, parse: (bytes: Buffer) => T, signal?: AbortSignal): Promise<T> {
    const request = (abandoned: AbortSignal) => this.#read(key, limit, parse, abandoned);
    return (await this.#reads.call(key, request, signal)) as T; // `parse` is the same in all calls for a key
  }

  async #read<T>(key: string, limit: number, parse: (bytes: Buffer) => T, signal: AbortSignal): Promise<T> {
    let first: Buffer | undefined;
    let same = true;
    for (let attempt = 1; ; attempt += 1) {
      let failure: UnpackError;
      try {
        const file = await this.#get(key, limit, signal);
        try {
          return parse(file.bytes);
        } catch (thrown) {
          failure = toUnpackError(thrown);
          if (failure.code !== 'MANIFEST_INVALID') throw failure;
          first ??= file.bytes;
          same &&= file.complete && file.bytes.equals(first) && !looksLikeErrorPage(file.bytes, file.contentType);
          if (!same) failure = damaged(key, failure);
        }
      } catch (thrown) {
        failure = toUnpackError(thrown);
        if (failure.code !== 'SOURCE_UNAVAILABLE') throw failure;
        same = false;
      }
      if (attempt > this.#maxResumes) throw gaveUp(failure, this.#maxResumes);
      await backOff(attempt, undefined, signal);
    }
  }

  async #get(key: string, limit: number, signal: AbortSignal): Promise<TagFile> {
    const known = this.#urls.get(key);
    const reusable = known !== undefined && performance.now() < known.until;
    try {
      return await this.#download(reusable ? known.url : this.#newUrl(key), key, limit, signal);
    } catch (thrown) {
      if (!reusable || toUnpackError(thrown).code !== 'SOURCE_DENIED') throw thrown;
      // the credentials have possibly been replaced since the URL was signed
      return this.#download(this.#newUrl(key), key, limit, signal);
    }
  }

  /** It has no signal, because other callers can wait for the URL, too. */
  #newUrl(key: string, refused?: SignatureRefusal): Promise<SignedUrl> {
    if (this.#urls.size >= URLS_KEPT) this.#urls.clear();
    const url = this.#sign(key, refused);
    const entry = { url, until: performance.now() + URL_REUSED_FOR };
    url.catch(() => this.#urls.get(key) === entry && this.#urls.delete(key));
    this.#urls.set(key, entry);
    return url;
  }

  async #download(url: Promise<SignedUrl>, key: string, limit: number, signal: AbortSignal): Promise<TagFile> {
    const renew = (refused: SignatureRefusal) => this.#newUrl(key, refused);
    return readFile(await this.#downloader.read(await url, { signal }, renew), key, limit);
  }
}

function damaged(key: string, cause: UnpackError): UnpackError {
  return new UnpackError('SOURCE_UNAVAILABLE', `${key} arrived damaged, or as an error page: ${cause.message}`, {
    cause,
  });
}

async function readFile({ chunks, size, contentType }: BlobStream, key: string, limit: number): Promise<TagFile> {
  const tooLong = () => new UnpackError('LIMIT_EXCEEDED', `${key} is longer than ${limit} bytes, the limit`);
  const bytes = await collect(chunks, limit, tooLong);
  if (size !== undefined && bytes.length < size) {
    throw new UnpackError('SOURCE_UNAVAILABLE', `${key} ended after ${bytes.length} of ${size} bytes`);
  }
  return { bytes, complete: size !== undefined, contentType };
}
