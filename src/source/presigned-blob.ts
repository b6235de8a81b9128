import { throwIfAborted, toUnpackError, UnpackError } from '../errors.ts';
import { HttpClient, type Question } from '../http/client.ts';
import { LONGEST_SEGMENT, RangeReader, WINDOW } from '../http/range-reader.ts';
import { contentRange, isStrong, MalformedResponseError, type ResponseHead, sameTag } from '../http/response-head.ts';
import { PIECE, type Segment, type SegmentTransfer } from '../http/segment.ts';
import { SpareBuffers } from '../system/spare-buffers.ts';
import type { BlobSource, BlobStream, OpenOptions } from './blob-source.ts';
import { ObjectResponse } from './object-response.ts';
import { refusalOf, s3Location, s3Refusal } from './s3-errors.ts';
import type { SignatureRefusal, SignedUrl, UrlGrant } from './source-spec.ts';

/** Connections and memory, kept for the next blob; shared by all that this thread reads. */
const CLIENT = new HttpClient();
const PIECES = new SpareBuffers(PIECE);

/** Buckets in which ranges were no gain, and until when that is believed (`performance.now()`). */
const NO_GAIN = new Map<string, number>();
const NO_GAIN_FOR = 10 * 60_000;
const MOST_NO_GAIN = 1000;

/** How often in a row another URL is asked for. A region and a redirection within it take two. */
const MOST_RENEWALS = 3;

/** Bytes between two breaks of a download, below which the rest is asked for in one request. */
const GOOD_PROGRESS = 8 * 1024 * 1024;

/** Gets another URL for the same object. @throws UnpackError */
export type Renew = (refused: SignatureRefusal) => Promise<SignedUrl>;

/**
 * One blob under a URL that carries its own permission, as the S3 source lends it to another thread. A bare HTTP client
 * reads it: the AWS SDK costs a thread half a second and 40 MB before its first byte, and other clients three times the
 * work of the download (measured, see docs/decisions.md). A chunk is valid until the next is asked for.
 * @param window bytes that a download may hold now
 */
export function openUrlGrant(spec: UrlGrant, window: () => number = () => WINDOW, renew?: Renew): BlobSource {
  const only = (): never => {
    throw new UnpackError('INTERNAL', `${spec.name} was lent for one blob alone`);
  };
  const object = new SignedObject(spec, { size: spec.size, window, renew });
  return {
    name: spec.name,
    maxResumes: spec.maxResumes,
    open: (_digest, options) => object.open(options),
    grant: async () => spec,
    resolveTag: only,
    close: () => {},
  };
}

/** The object of a URL, whatever its size, by one request. @throws UnpackError as `BlobSource.open` */
export function readObject(spec: SignedUrl, options: OpenOptions, renew?: Renew): Promise<BlobStream> {
  return new SignedObject(spec, { size: undefined, window: () => WINDOW, renew }).open(options);
}

/** What the first answer says of the object. */
type Told = Omit<BlobStream, 'chunks'>;

/** One reading of the object from some byte on. */
interface Reading {
  readonly offset: number;
  /** Of an earlier answer. */
  readonly etag: string | undefined;
  told: Told | undefined;
}

/**
 * An object that is read by one request or by ranges. What answers say of it are hints, since the digest proves the bytes:
 * a range that cannot be used as it is described is asked for in another way.
 *
 *     many (the first request and ranges beside it) ─▶ one (the rest in one request) ─▶ none (everything from byte 0 on)
 */
class SignedObject {
  #spec: SignedUrl;
  readonly #size: number | undefined;
  readonly #window: () => number;
  readonly #renew: Renew | undefined;
  #ranges: 'many' | 'one' | 'none' = 'many';
  /** `If-Match` has not been refused. */
  #conditional = true;
  /** `If-Match` was refused because the object is another, as the server says. */
  #changed = false;
  /** One that all segments wait for, and how many there were since the last answer. */
  #renewing: Promise<void> | undefined;
  #renewals = 0;
  #openedAt: number | undefined;

  constructor(spec: SignedUrl, more: { size: number | undefined; window: () => number; renew: Renew | undefined }) {
    this.#spec = spec;
    this.#size = more.size;
    this.#window = more.window;
    this.#renew = more.renew;
  }

  async open({ offset = 0, etag, signal }: OpenOptions): Promise<BlobStream> {
    throwIfAborted(signal);
    const { idleTimeout, minimumSpeed, request } = this.#spec;
    const before = this.#openedAt;
    if (before !== undefined && offset - before < GOOD_PROGRESS && this.#ranges === 'many') this.#ranges = 'one';
    this.#openedAt = offset;
    const size = this.#size ?? Number.POSITIVE_INFINITY;
    const key = `${request.endpoint}/${request.bucket}`;
    const small = this.#size === undefined || size - offset <= LONGEST_SEGMENT;
    const reading: Reading = { offset, etag, told: undefined };
    const reader = new RangeReader({
      offset,
      end: size,
      alone: small || this.#ranges !== 'many' || (NO_GAIN.get(key) ?? 0) > performance.now(),
      window: this.#window,
      pieces: PIECES,
      what: s3Location(request),
      idleTimeout,
      minimumSpeed,
      signal,
      onNoGain: () => {
        if (NO_GAIN.size >= MOST_NO_GAIN) NO_GAIN.clear();
        NO_GAIN.set(key, performance.now() + NO_GAIN_FOR);
      },
      ask: (segment, first) => this.#ask(reading, segment, first),
    });
    await reader.begin();
    if (reading.told === undefined) throw new TypeError('an answer has begun and said nothing');
    return { ...reading.told, chunks: reader };
  }

  #ask(reading: Reading, segment: Segment, first: boolean): SegmentTransfer {
    const { from, to } = segment.range;
    const ranged = !first || (from > 0 && this.#ranges !== 'none');
    const etag = ranged && this.#conditional ? (reading.told?.etag ?? reading.etag) : undefined;
    const condition = isStrong(etag) ? etag : undefined;
    const range = ranged ? `${from}-${first ? '' : to - 1}` : undefined;
    const again = (): void => {
      if (!segment.dropped) segment.transfer = this.#ask(reading, segment, first);
    };
    const answer = new ObjectResponse(this.#spec.request, segment, {
      begin: (head) => {
        this.#renewals = 0;
        this.#refuseOther(head, reading);
        if (!first) return this.#checkRange(head, segment);
        const told = toldBy(head, ranged ? from : undefined, this.#size);
        if (told !== undefined) {
          reading.told = told;
          return told.offset;
        }
        if (!ranged) throw new MalformedResponseError(`has a part (${rangeOf(head)}) where all was asked for`);
        this.#ranges = 'none';
        again();
        return undefined;
      },
      refused: (refused) => {
        const { status } = refused;
        if (condition !== undefined && (status === 412 || status === 501)) {
          this.#conditional = false;
          this.#changed ||= status === 412;
          return again();
        }
        const refusal = refusalOf(refused, reading.told !== undefined || reading.offset > 0);
        if (refusal !== undefined && this.#renew !== undefined && this.#renewals < MOST_RENEWALS) {
          this.#renewed(refusal, this.#renew).then(again, (error) => segment.fail(toUnpackError(error)));
          return;
        }
        const failure = s3Refusal(refused, this.#spec.request);
        const ofRange =
          ranged && (status === 501 || (REFUSES_RANGES.has(status) && failure.code !== 'SOURCE_UNAVAILABLE'));
        if (!ofRange) return segment.fail(failure);
        if (!first) return this.#withoutRange(segment, `a range was refused (${status} ${refused.reason})`);
        // what is wrong with the whole object is told when all of it is asked for
        this.#ranges = 'none';
        again();
      },
    });
    return answer.asked(CLIENT.get(questionOf(this.#spec, range, condition), answer));
  }

  /** @throws UnpackError where `If-Match` has failed and the object is another: the ETag alone may be a server's fault */
  #refuseOther(head: ResponseHead, { etag, told }: Reading): void {
    const [before, now] = [told?.etag ?? etag, head.headers.get('etag')];
    if (!this.#changed || !isStrong(before) || !isStrong(now) || sameTag(before, now)) return;
    throw new UnpackError('BLOB_DIGEST_MISMATCH', `${s3Location(this.#spec.request)} was replaced while it was read`);
  }

  /** @returns where its bytes begin */
  #checkRange(head: ResponseHead, segment: Segment): number | undefined {
    const { from } = segment.range;
    const range = contentRange(head);
    const isPart = range?.from === from && (range.size ?? this.#size) === this.#size;
    if (isPart) return from;
    this.#withoutRange(segment, `the answer to a request for bytes from ${from} on has ${rangeOf(head)}`);
    return undefined;
  }

  /** A range that cannot be used: all that is left is asked for in one request. */
  #withoutRange(segment: Segment, why: string): void {
    this.#ranges = 'one';
    segment.fail(new UnpackError('SOURCE_UNAVAILABLE', `${s3Location(this.#spec.request)}: ${why}`));
  }

  /** Another URL, once for all who wait for it. */
  #renewed(refusal: SignatureRefusal, renew: Renew): Promise<void> {
    this.#renewing ??= (async () => {
      this.#renewals += 1;
      try {
        this.#spec = await renew(refusal);
      } finally {
        this.#renewing = undefined;
      }
    })();
    return this.#renewing;
  }
}

/** Statuses with which servers answer that know no ranges, or not this one. */
const REFUSES_RANGES = new Set([400, 405, 416]);

/**
 * What the first answer says.
 * @param asked where the bytes were asked for from; `undefined`: everything was
 * @returns `undefined` where it cannot be known which bytes these are. Only an answer with everything is believed where
 *   it contradicts the size.
 */
function toldBy(head: ResponseHead, asked: number | undefined, size: number | undefined): Told | undefined {
  const range = contentRange(head);
  const length = typeof head.body === 'number' ? head.body : undefined;
  const more = {
    etag: head.headers.get('etag'),
    contentType: head.headers.get('content-type'),
    altered: alterationOf(head),
  };
  if (head.status === 206 || (asked !== undefined && range !== undefined)) {
    if (range?.from !== (asked ?? 0)) return undefined;
    if (asked !== undefined && size !== undefined && (range.size ?? size) !== size) return undefined;
    return { ...more, size: asked === undefined ? range.size : (size ?? range.size), offset: range.from };
  }
  if (asked !== undefined && size !== undefined && (length ?? size) !== size) return undefined;
  return { ...more, size: length, offset: 0 };
}

/** What a server tells of having changed the bytes on their way (RFC 7234, 5.5.6; decompressive transcoding of GCS). */
function alterationOf({ headers }: ResponseHead): string | undefined {
  const warning = headers.get('warning');
  if (warning?.startsWith('214') === true) return `Warning: ${warning}`;
  const stored = headers.get('x-goog-stored-content-encoding');
  const unzipped = stored !== undefined && stored !== 'identity' && headers.get('content-encoding') === undefined;
  return unzipped ? `X-Goog-Stored-Content-Encoding: ${stored}` : undefined;
}

const rangeOf = (head: ResponseHead): string =>
  head.headers.get('content-range') ?? `status ${head.status} and no range`;

/** Questions for all of an object by their URL: what names an image by a tag is asked for again and again. */
const WHOLE = new WeakMap<SignedUrl, Question>();

function questionOf(spec: SignedUrl, range: string | undefined, etag: string | undefined): Question {
  if (range !== undefined || etag !== undefined) return newQuestion(spec, range, etag);
  const known = WHOLE.get(spec) ?? newQuestion(spec, undefined, undefined);
  WHOLE.set(spec, known);
  return known;
}

/** @param range bytes, as in `0-99` or `100-` */
function newQuestion(spec: SignedUrl, range: string | undefined, etag: string | undefined): Question {
  const url = new URL(spec.url);
  const secure = url.protocol === 'https:';
  const lines = [
    `GET ${url.pathname}${url.search} HTTP/1.1`,
    `Host: ${url.host}`,
    'Connection: keep-alive',
    ...(range === undefined ? [] : [`Range: bytes=${range}`]),
    ...(etag === undefined ? [] : [`If-Match: ${etag}`]),
  ];
  return {
    origin: {
      secure,
      host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
      port: url.port === '' ? (secure ? 443 : 80) : Number(url.port),
      caBundle: spec.caBundle,
    },
    request: `${lines.join('\r\n')}\r\n\r\n`,
    connectTimeout: spec.connectTimeout,
  };
}
