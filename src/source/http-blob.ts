import { throwIfAborted, UnpackError } from '../errors.ts';
import { SpareBuffers } from '../system/spare-buffers.ts';
import type { BlobSource, BlobStream, OpenOptions } from './blob-source.ts';
import { HttpClient, type Question, type Transfer } from './http-client.ts';
import type { Body, Exchange } from './http-connection.ts';
import { LONGEST_SEGMENT, RangeReader, WINDOW } from './range-reader.ts';
import { NonsenseError, type ResponseHead } from './response-head.ts';
import { s3Error, s3Location, s3Refusal } from './s3-errors.ts';
import { PIECE, type Range, type Segment } from './segment.ts';
import { watchSilence } from './silence.ts';
import type { HttpBlobSpec, HttpRequestSpec } from './source-spec.ts';

/** Connections and memory, kept for the next blob; shared by all that this thread reads. */
const CLIENT = new HttpClient();
const PIECES = new SpareBuffers(PIECE);

/** Longest answer to a refused request that is read for its reason, and milliseconds of silence until it is given up. */
const REASON_LIMIT = 64 * 1024;
const REASON_PATIENCE = 1000;

/**
 * One blob under a URL that carries its own permission, as the S3 source lends it to another thread. A bare HTTP client
 * reads it: the AWS SDK costs a thread half a second and 40 MB before its first byte, and Node's own client three times
 * the work of the download (measured). A chunk is valid until the next is asked for.
 * @param window bytes that a download may hold now
 */
export function openHttpBlob(spec: HttpBlobSpec, window: () => number = () => WINDOW): BlobSource {
  const only = (): never => {
    throw new UnpackError('INTERNAL', `${spec.name} was lent for one blob alone`);
  };
  return {
    name: spec.name,
    maxResumes: spec.maxResumes,
    open: (_digest, options) => open(spec, spec.size, window, options),
    lend: async () => spec,
    resolveTag: only,
    close: () => {},
  };
}

/** The whole object of a URL, whatever its size, by one request. @throws UnpackError as `BlobSource.open` */
export function openWhole(spec: HttpRequestSpec, signal: AbortSignal | undefined): Promise<BlobStream> {
  return open(spec, undefined, () => WINDOW, { signal });
}

/** What the first answer says of the blob. */
type Told = Omit<BlobStream, 'chunks'>;

async function open(
  spec: HttpRequestSpec,
  size: number | undefined,
  window: () => number,
  { offset = 0, etag, signal }: OpenOptions,
): Promise<BlobStream> {
  throwIfAborted(signal);
  const { idleTimeout, request } = spec;
  const left = size === undefined ? Number.POSITIVE_INFINITY : size - offset;
  const alone = size === undefined || left <= LONGEST_SEGMENT;
  let told: Told | undefined;
  const reader: RangeReader = new RangeReader({
    offset,
    end: offset + left,
    alone,
    window,
    pieces: PIECES,
    what: s3Location(request),
    idleTimeout,
    signal,
    ask: (segment) => {
      const { from, to } = segment.range;
      const range = alone ? { from, to: undefined } : { from, to };
      const question = questionOf(spec, alone && offset === 0 ? undefined : range, told?.etag ?? etag);
      const answer = new Answer(spec.request, segment, (head) => {
        if (told !== undefined) return checkFurther(head, segment.range, size);
        told = toldBy(head);
        // a server that knows no ranges sends everything, and one of another size will be refused
        if (!isPart(head, segment.range, size)) reader.askNoMore();
      });
      return answer.asked(CLIENT.get(question, answer));
    },
  });
  await reader.begin();
  if (told === undefined) throw new TypeError('an answer has begun and said nothing');
  return { ...told, chunks: reader };
}

/** To the end where `to` is left out. */
interface AskedRange {
  readonly from: number;
  readonly to: number | undefined;
}

function questionOf(spec: HttpRequestSpec, range: AskedRange | undefined, etag: string | undefined): Question {
  const url = new URL(spec.url);
  const secure = url.protocol === 'https:';
  const lines = [
    `GET ${url.pathname}${url.search} HTTP/1.1`,
    `Host: ${url.host}`,
    'Connection: keep-alive',
    ...(range === undefined ? [] : [`Range: bytes=${range.from}-${range.to === undefined ? '' : range.to - 1}`]),
    ...(range === undefined || etag === undefined ? [] : [`If-Match: ${etag}`]),
  ];
  return {
    origin: {
      secure,
      host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
      port: url.port === '' ? (secure ? 443 : 80) : Number(url.port),
    },
    request: `${lines.join('\r\n')}\r\n\r\n`,
    connectTimeout: spec.connectTimeout,
  };
}

interface ContentRange {
  readonly from: number;
  /** Bytes of the whole object, where it is known. */
  readonly size: number | undefined;
}

function contentRange(head: ResponseHead): ContentRange | undefined {
  const [, from, size] =
    /^bytes (\d{1,15})-\d{1,15}\/(\d{1,15}|\*)$/.exec(head.headers.get('content-range') ?? '') ?? [];
  if (from === undefined) return undefined;
  return { from: Number(from), size: size === '*' ? undefined : Number(size) };
}

function toldBy(head: ResponseHead): Told {
  const range = contentRange(head);
  const length = typeof head.body === 'number' ? head.body : undefined;
  return {
    size: range === undefined ? length : range.size,
    etag: head.headers.get('etag'),
    offset: range?.from ?? 0,
  };
}

/** Whether an answer is the range that was asked for, of an object of the right size. */
function isPart(head: ResponseHead, { from, to }: Range, size: number | undefined): boolean {
  const range = contentRange(head);
  return range !== undefined && range.from === from && range.size === size && head.body === to - from;
}

/** @throws NonsenseError */
function checkFurther(head: ResponseHead, range: Range, size: number | undefined): void {
  if (isPart(head, range, size)) return;
  const found = head.headers.get('content-range') ?? 'no range';
  throw new NonsenseError(
    `to a request for bytes from ${range.from} of ${size} on has ${found} and ${head.body} bytes`,
  );
}

/** The answer for a segment: its bytes, or why there are none. */
class Answer implements Exchange, Body {
  readonly #request;
  readonly #segment: Segment;
  readonly #check: (head: ResponseHead) => void;
  #transfer: Transfer | undefined;

  /** @param check throws NonsenseError for an answer that is none */
  constructor(request: HttpBlobSpec['request'], segment: Segment, check: (head: ResponseHead) => void) {
    this.#request = request;
    this.#segment = segment;
    this.#check = check;
  }

  asked(transfer: Transfer): Transfer {
    this.#transfer = transfer;
    return transfer;
  }

  begin(head: ResponseHead): Body | undefined {
    if (head.status !== 200 && head.status !== 206) {
      return new Refusal((reason) => {
        this.#transfer?.cancel();
        this.#segment.fail(s3Refusal(head.status, head.reason, reason, this.#request));
      });
    }
    try {
      this.#check(head);
    } catch (error) {
      if (!(error instanceof NonsenseError)) throw error;
      this.#segment.fail(this.#unavailable(error));
      return undefined;
    }
    this.#segment.answer();
    return this;
  }

  room(): Buffer {
    return this.#segment.room();
  }

  filled(count: number): boolean {
    return this.#segment.filled(count);
  }

  end(): void {
    this.#segment.end();
  }

  fail(cause: Error): void {
    this.#segment.fail(this.#unavailable(cause));
  }

  #unavailable(cause: Error): UnpackError {
    const where = s3Location(this.#request);
    if (cause instanceof NonsenseError) {
      return new UnpackError('SOURCE_UNAVAILABLE', `${where}: the answer ${cause.message}`, { cause });
    }
    if (!this.#segment.answered) return s3Error(cause, this.#request);
    return new UnpackError('SOURCE_UNAVAILABLE', `${where}: the connection broke (${cause.message})`, { cause });
  }
}

/** Reads what a refused request says of itself, as far as it comes. */
class Refusal implements Body {
  readonly #bytes = Buffer.allocUnsafe(REASON_LIMIT);
  readonly #silence;
  readonly #tell: (reason: string) => void;
  #length = 0;
  #told = false;

  constructor(tell: (reason: string) => void) {
    this.#tell = tell;
    this.#silence = watchSilence(REASON_PATIENCE, () => this.end());
    this.#silence.arm();
  }

  room(): Buffer {
    return this.#bytes.subarray(this.#length % REASON_LIMIT);
  }

  filled(count: number): boolean {
    this.#length += count;
    if (this.#length === REASON_LIMIT) this.end();
    return !this.#told;
  }

  end(): void {
    if (this.#told) return;
    this.#told = true;
    this.#silence.disarm();
    this.#tell(this.#bytes.toString('latin1', 0, this.#length));
  }

  /** The status alone must do. */
  fail(): void {
    this.end();
  }
}
