import { toUnpackError, UnpackError } from '../errors.ts';
import type { BlobStream } from './blob-source.ts';
import { openWhole } from './http-blob.ts';
import { retrying } from './retry.ts';
import { SharedCalls } from './shared-calls.ts';
import type { HttpRequestSpec } from './source-spec.ts';

/** Seconds that a signature holds. */
export const SIGNED_FOR = 3600;
/** Milliseconds that it is used: credentials that are replaced in time are replaced here too. */
const USED_FOR = 60_000;
/** Signatures kept: each costs half a millisecond to make (measured) and some hundred bytes to keep. */
const MOST_SIGNED = 2000;

/** How a bucket is asked. */
export interface Asking {
  /** A URL for the object under `key` that holds for SIGNED_FOR. @throws UnpackError SOURCE_DENIED */
  sign(key: string): Promise<HttpRequestSpec>;
  /** The object through the AWS SDK. @throws UnpackError as `BlobSource.open` */
  open(key: string, signal: AbortSignal): Promise<BlobStream>;
  /** Further tries after the first. */
  readonly maxResumes: number;
}

/**
 * The small objects of a bucket that may change at any time: what names an image by a tag. Each is read by a request that
 * begins after the call, so that who has just changed it finds the change; calls for one object at the same time share it.
 *
 * Signed URLs are read by a bare HTTP client: a request through the SDK takes the processor five times as long.
 */
export class SmallObjects {
  readonly #asking: Asking;
  readonly #calls = new SharedCalls<Buffer>();
  readonly #signed = new Map<string, { readonly spec: Promise<HttpRequestSpec>; readonly until: number }>();

  constructor(asking: Asking) {
    this.#asking = asking;
  }

  /**
   * @param limit most bytes that the object may have, the same in all calls for it
   * @throws UnpackError LIMIT_EXCEEDED; as `BlobSource.open`, SOURCE_UNAVAILABLE after several tries
   */
  read(key: string, limit: number, signal?: AbortSignal): Promise<Buffer> {
    const { maxResumes } = this.#asking;
    const work = (unwanted: AbortSignal) =>
      retrying(() => this.#get(key, limit, unwanted), { maxResumes, signal: unwanted });
    return this.#calls.call(key, work, signal);
  }

  async #get(key: string, limit: number, signal: AbortSignal): Promise<Buffer> {
    try {
      return await readAll(await openWhole(await this.#url(key), signal), key, limit);
    } catch (thrown) {
      if (toUnpackError(thrown).code !== 'SOURCE_DENIED') throw thrown;
      // the SDK knows more about credentials and clocks than a signature of a minute ago
      this.#signed.delete(key);
      return readAll(await this.#asking.open(key, signal), key, limit);
    }
  }

  #url(key: string): Promise<HttpRequestSpec> {
    const now = performance.now();
    const known = this.#signed.get(key);
    if (known !== undefined && now < known.until) return known.spec;
    if (this.#signed.size >= MOST_SIGNED) this.#signed.clear();
    const spec = this.#asking.sign(key);
    spec.catch(() => this.#signed.delete(key));
    this.#signed.set(key, { spec, until: now + USED_FOR });
    return spec;
  }
}

async function readAll(stream: BlobStream, key: string, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of stream.chunks) {
    length += chunk.length;
    if (length > limit) throw new UnpackError('LIMIT_EXCEEDED', `${key} is longer than the ${limit} bytes it may have`);
    chunks.push(Buffer.from(chunk)); // it is valid until the next is asked for
  }
  if (stream.size !== undefined && length < stream.size) {
    throw new UnpackError('SOURCE_UNAVAILABLE', `${key} ended after ${length} of ${stream.size} bytes`);
  }
  return Buffer.concat(chunks);
}
