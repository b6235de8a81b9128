import { throwIfAborted, toUnpackError, UnpackError } from '../errors.ts';
import type { Transfer } from '../http/client.ts';
import type { ResponseHandler } from '../http/connection.ts';
import { LONGEST_SEGMENT } from '../http/connection-plan.ts';
import { RangeReader } from '../http/range-reader.ts';
import { contentRange, isStrong, MalformedResponseError, type ResponseHead, sameEtag } from '../http/response-head.ts';
import type { Segment, SegmentTransfer } from '../http/segment.ts';
import type { SpareBuffers } from '../system/spare-buffers.ts';
import type { BlobStream, OpenOptions } from './blob-source.ts';
import { ObjectResponse } from './object-response.ts';
import { type Refused, refusalOf, s3Location, s3Refusal } from './s3-errors.ts';
import type { SignatureRefusal, SignedUrl } from './source-spec.ts';

/** Maximum number of new URLs in a row. A wrong region and then a redirection inside the right region need two. */
const MAX_RENEWALS = 3;

/** If a download breaks after fewer bytes than this, the rest is requested without ranges. */
const GOOD_PROGRESS = 8 * 1024 * 1024;

/** Statuses of servers that do not support ranges, or not this one. */
const REFUSES_RANGES = new Set([400, 405, 416]);

/** Gets a new URL for the same object. @throws UnpackError */
export type RenewUrl = (refused: SignatureRefusal) => Promise<SignedUrl>;

/** A GET request for an object, or for a part of it. */
export interface ObjectRequest {
  readonly url: SignedUrl;
  /** The range in bytes, for example `0-99` or `100-`; `undefined`: the whole object. */
  readonly range: string | undefined;
  /** The ETag for `If-Match`. */
  readonly etag: string | undefined;
}

/** The buffers and connections that downloads share. ObjectDownloader owns them. */
export interface ObjectTransport {
  /** Buffers of SEGMENT_BUFFER bytes. */
  readonly buffers: SpareBuffers;
  get(request: ObjectRequest, handler: ResponseHandler): Transfer;
  /** Whether ranges possibly make a download from this bucket faster. */
  bringsGain(bucket: string): boolean;
  noGain(bucket: string): void;
}

/** The facts about the object in the first answer. */
type ObjectInfo = Omit<BlobStream, 'chunks'>;

/** One read of the object, from an offset to the last byte. */
interface Reading {
  readonly offset: number;
  /** From an earlier answer. */
  readonly etag: string | undefined;
  info: ObjectInfo | undefined;
}

/**
 * Reads an object by a signed URL, with one request or with ranges. The headers of answers are only hints, because the digest
 * proves the bytes. If a range cannot be used, the object is requested in another way:
 *
 *     many (first request, and ranges beside it) ─▶ one (the rest in one request) ─▶ none (everything, from byte 0 on)
 */
export class SignedObject {
  readonly #transport: ObjectTransport;
  #url: SignedUrl;
  readonly #size: number | undefined;
  readonly #window: () => number;
  readonly #renew: RenewUrl | undefined;
  #ranges: 'many' | 'one' | 'none' = 'many';
  /** Whether the server accepts `If-Match`. */
  #conditional = true;
  /** Whether the server has refused `If-Match`, because the object has changed. */
  #changed = false;
  /** One renewal, for which all segments wait, and the number of renewals since the last good answer. */
  #renewing: Promise<void> | undefined;
  #renewals = 0;
  #openedAt: number | undefined;

  constructor(
    transport: ObjectTransport,
    url: SignedUrl,
    options: { size: number | undefined; window: () => number; renew: RenewUrl | undefined },
  ) {
    this.#transport = transport;
    this.#url = url;
    this.#size = options.size;
    this.#window = options.window;
    this.#renew = options.renew;
  }

  /** @throws UnpackError as `BlobSource.open` */
  async open({ offset = 0, etag, signal }: OpenOptions): Promise<BlobStream> {
    throwIfAborted(signal);
    const { idleTimeout, minimumSpeed, request } = this.#url;
    const before = this.#openedAt;
    if (before !== undefined && offset - before < GOOD_PROGRESS && this.#ranges === 'many') this.#ranges = 'one';
    this.#openedAt = offset;
    const size = this.#size ?? Number.POSITIVE_INFINITY;
    const bucket = `${request.endpoint}/${request.bucket}`;
    const large = this.#size !== undefined && size - offset > LONGEST_SEGMENT;
    const reading: Reading = { offset, etag, info: undefined };
    const reader = new RangeReader({
      offset,
      end: size,
      ranges: large && this.#ranges === 'many' && this.#transport.bringsGain(bucket),
      window: this.#window,
      buffers: this.#transport.buffers,
      what: s3Location(request),
      idleTimeout,
      minimumSpeed,
      signal,
      onNoGain: () => this.#transport.noGain(bucket),
      request: (segment, first) => this.#request(reading, segment, first),
    });
    await reader.begin();
    if (reading.info === undefined) throw new TypeError('the first answer has begun without information');
    return { ...reading.info, chunks: reader };
  }

  #request(reading: Reading, segment: Segment, first: boolean): SegmentTransfer {
    const { from, to } = segment.range;
    const ranged = !first || (from > 0 && this.#ranges !== 'none');
    const etag = ranged && this.#conditional ? (reading.info?.etag ?? reading.etag) : undefined;
    const condition = isStrong(etag) ? etag : undefined;
    const range = ranged ? `${from}-${first ? '' : to - 1}` : undefined;
    const again = (): void => {
      if (!segment.dropped) segment.transfer = this.#request(reading, segment, first);
    };
    const everything = (): void => {
      this.#ranges = 'none';
      again();
    };
    const response = new ObjectResponse(this.#url.request, segment, {
      begin: (head) => {
        this.#renewals = 0;
        this.#refuseChanged(head, reading);
        if (!first) return this.#checkRange(head, segment);
        const info = infoOf(head, ranged ? from : undefined, this.#size);
        if (info !== undefined) {
          reading.info = info;
          return info.offset;
        }
        if (!ranged) throw new MalformedResponseError(`has only a part (${rangeOf(head)}) of the object`);
        everything();
        return undefined;
      },
      refused: (refused) => {
        const { status } = refused;
        if (condition !== undefined && (status === 412 || status === 501)) {
          this.#conditional = false;
          this.#changed ||= status === 412;
          return again();
        }
        const refusal = refusalOf(refused, reading.info !== undefined || reading.offset > 0);
        if (refusal !== undefined && this.#renew !== undefined && this.#renewals < MAX_RENEWALS) {
          this.#renewOnce(refusal, this.#renew).then(again, (error) => segment.fail(toUnpackError(error)));
          return;
        }
        const failure = s3Refusal(refused, this.#url.request);
        if (!ranged || !refusesRange(refused, failure)) return segment.fail(failure);
        if (!first) return this.#failRange(segment, `a range was refused (${status} ${refused.reason})`);
        // if the object itself cannot be read, the request for everything fails with the reason
        everything();
      },
    });
    return response.attach(this.#transport.get({ url: this.#url, range, etag: condition }, response));
  }

  /**
   * @throws UnpackError if the server has refused `If-Match` and sends another ETag. Another ETag without a refusal is
   * possibly a fault of the server
   */
  #refuseChanged(head: ResponseHead, { etag, info }: Reading): void {
    const [before, now] = [info?.etag ?? etag, head.headers.get('etag')];
    if (!this.#changed || !isStrong(before) || !isStrong(now) || sameEtag(before, now)) return;
    throw new UnpackError('BLOB_DIGEST_MISMATCH', `${s3Location(this.#url.request)} was replaced while it was read`);
  }

  /** @returns the offset of the answer; `undefined` if it is not the requested offset */
  #checkRange(head: ResponseHead, segment: Segment): number | undefined {
    const { from } = segment.range;
    const range = contentRange(head);
    if (range?.from === from && (range.size ?? this.#size) === this.#size) return from;
    this.#failRange(segment, `the answer to a request for bytes from ${from} on has ${rangeOf(head)}`);
    return undefined;
  }

  /** The range cannot be used. The rest is requested without ranges. */
  #failRange(segment: Segment, why: string): void {
    this.#ranges = 'one';
    segment.fail(new UnpackError('SOURCE_UNAVAILABLE', `${s3Location(this.#url.request)}: ${why}`));
  }

  /** Gets a new URL, once for all segments that wait for it. */
  #renewOnce(refusal: SignatureRefusal, renew: RenewUrl): Promise<void> {
    this.#renewing ??= (async () => {
      this.#renewals += 1;
      try {
        this.#url = await renew(refusal);
      } finally {
        this.#renewing = undefined;
      }
    })();
    return this.#renewing;
  }
}

function refusesRange({ status }: Refused, failure: UnpackError): boolean {
  return status === 501 || (REFUSES_RANGES.has(status) && failure.code !== 'SOURCE_UNAVAILABLE');
}

/**
 * The facts about the object in the first answer. Only an answer to a request for everything is allowed to contradict
 * the expected size.
 * @param requested the first requested byte; `undefined` if everything was requested
 * @returns `undefined` if it is not clear which bytes the answer has
 */
function infoOf(head: ResponseHead, requested: number | undefined, size: number | undefined): ObjectInfo | undefined {
  const range = contentRange(head);
  const length = typeof head.body === 'number' ? head.body : undefined;
  const more = {
    etag: head.headers.get('etag'),
    contentType: head.headers.get('content-type'),
    altered: alterationOf(head),
  };
  if (head.status === 206 || (requested !== undefined && range !== undefined)) {
    if (range?.from !== (requested ?? 0)) return undefined;
    if (requested !== undefined && size !== undefined && (range.size ?? size) !== size) return undefined;
    return { ...more, size: requested === undefined ? range.size : (size ?? range.size), offset: range.from };
  }
  if (requested !== undefined && size !== undefined && (length ?? size) !== size) return undefined;
  return { ...more, size: length, offset: 0 };
}

/** The header of a server or proxy that has changed the bytes (RFC 7234, 5.5.6; decompressive transcoding of GCS). */
function alterationOf({ headers }: ResponseHead): string | undefined {
  const warning = headers.get('warning');
  if (warning?.startsWith('214') === true) return `Warning: ${warning}`;
  const stored = headers.get('x-goog-stored-content-encoding');
  const unzipped = stored !== undefined && stored !== 'identity' && headers.get('content-encoding') === undefined;
  return unzipped ? `X-Goog-Stored-Content-Encoding: ${stored}` : undefined;
}

const rangeOf = (head: ResponseHead): string =>
  head.headers.get('content-range') ?? `status ${head.status} and no range`;
