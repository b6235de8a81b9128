import { toUnpackError, UnpackError } from '../errors.ts';
import type { BlobStream } from './blob-source.ts';
import { looksLikeErrorPage } from './error-page.ts';
import { readObject } from './presigned-blob.ts';
import { RequestCoalescer } from './request-coalescer.ts';
import { backOff, gaveUp } from './retry.ts';
import type { SignatureRefusal, SignedUrl } from './source-spec.ts';

/** Seconds that a signature holds. */
export const SIGNED_FOR = 3600;
/** Milliseconds that it is used: credentials that are replaced in time are replaced here too. */
const USED_FOR = 60_000;
/** Signatures kept: each costs half a millisecond to make (measured) and some hundred bytes to keep. */
const MOST_SIGNED = 2000;

/** How a bucket is asked. */
export interface Asking {
  /**
   * A URL for the object under `key` that holds for SIGNED_FOR.
   * @param refused how the last one was refused
   * @throws UnpackError SOURCE_DENIED
   */
  sign(key: string, refused?: SignatureRefusal): Promise<SignedUrl>;
  /** Further tries after the first. */
  readonly maxResumes: number;
}

/** An object as it was read. */
interface SmallObject {
  readonly bytes: Buffer;
  /** The answer told its length: it is no answer that broke off. */
  readonly complete: boolean;
  readonly contentType: string | undefined;
}

/**
 * The small objects of a bucket that may change at any time: what names an image by a tag. Each is read by a request that
 * begins after the call, so that who has just changed it finds the change; calls for one object at the same time share it.
 *
 * No digest tells whether what came is what is stored. What cannot be understood is therefore read again, and believed
 * when every try has come to the same bytes.
 */
export class TagFiles {
  readonly #asking: Asking;
  readonly #calls = new RequestCoalescer<unknown>();
  readonly #signed = new Map<string, { readonly spec: Promise<SignedUrl>; readonly until: number }>();

  constructor(asking: Asking) {
    this.#asking = asking;
  }

  /**
   * @param limit most bytes that the object may have, the same in all calls for it
   * @param parse what the bytes mean, the same in all calls for it; throws MANIFEST_INVALID for what means nothing
   * @throws UnpackError LIMIT_EXCEEDED; as `BlobSource.open`, SOURCE_UNAVAILABLE after several tries; MANIFEST_INVALID when
   *   what is stored means nothing
   */
  async read<T>(key: string, limit: number, parse: (bytes: Buffer) => T, signal?: AbortSignal): Promise<T> {
    const work = (unwanted: AbortSignal) => this.#read(key, limit, parse, unwanted);
    return (await this.#calls.call(key, work, signal)) as T; // all calls for a key parse alike
  }

  async #read<T>(key: string, limit: number, parse: (bytes: Buffer) => T, signal: AbortSignal): Promise<T> {
    const { maxResumes } = this.#asking;
    let first: Buffer | undefined;
    let same = true;
    for (let attempt = 1; ; attempt += 1) {
      let failure: UnpackError;
      try {
        const object = await this.#get(key, limit, signal);
        try {
          return parse(object.bytes);
        } catch (thrown) {
          failure = toUnpackError(thrown);
          if (failure.code !== 'MANIFEST_INVALID') throw failure;
          first ??= object.bytes;
          same &&=
            object.complete && object.bytes.equals(first) && !looksLikeErrorPage(object.bytes, object.contentType);
          if (!same) failure = damaged(key, failure);
        }
      } catch (thrown) {
        failure = toUnpackError(thrown);
        if (failure.code !== 'SOURCE_UNAVAILABLE') throw failure;
        same = false;
      }
      if (attempt > maxResumes) throw gaveUp(failure, maxResumes);
      await backOff(attempt, undefined, signal);
    }
  }

  async #get(key: string, limit: number, signal: AbortSignal): Promise<SmallObject> {
    const known = this.#known(key);
    try {
      return await this.#readAll(known ?? this.#sign(key), key, limit, signal);
    } catch (thrown) {
      if (known === undefined || toUnpackError(thrown).code !== 'SOURCE_DENIED') throw thrown;
      // the signature is some time old: credentials may be others now
      return this.#readAll(this.#sign(key), key, limit, signal);
    }
  }

  #known(key: string): Promise<SignedUrl> | undefined {
    const known = this.#signed.get(key);
    return known !== undefined && performance.now() < known.until ? known.spec : undefined;
  }

  /** Without anybody's signal: others may wait for it too. */
  #sign(key: string, refused?: SignatureRefusal): Promise<SignedUrl> {
    if (this.#signed.size >= MOST_SIGNED) this.#signed.clear();
    const spec = this.#asking.sign(key, refused);
    const entry = { spec, until: performance.now() + USED_FOR };
    spec.catch(() => this.#signed.get(key) === entry && this.#signed.delete(key));
    this.#signed.set(key, entry);
    return spec;
  }

  async #readAll(spec: Promise<SignedUrl>, key: string, limit: number, signal: AbortSignal): Promise<SmallObject> {
    const renew = (refused: SignatureRefusal) => this.#sign(key, refused);
    return readAll(await readObject(await spec, { signal }, renew), key, limit);
  }
}

function damaged(key: string, cause: UnpackError): UnpackError {
  return new UnpackError('SOURCE_UNAVAILABLE', `${key} came damaged, or as an error page: ${cause.message}`, { cause });
}

async function readAll(stream: BlobStream, key: string, limit: number): Promise<SmallObject> {
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
  return { bytes: Buffer.concat(chunks), complete: stream.size !== undefined, contentType: stream.contentType };
}
