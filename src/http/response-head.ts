/** The status line and the headers of an HTTP/1.1 response (RFC 9112). */
export interface ResponseHead {
  readonly status: number;
  readonly reason: string;
  /** Names in lower case. The values of a repeated header are joined by ", ". */
  readonly headers: ReadonlyMap<string, string>;
  /** Whether the connection can be reused after the body. */
  readonly keepAlive: boolean;
  /**
   * The length of the body in bytes. If the length is unknown: `chunked`, or `until-close` if the body lasts until the
   * connection is closed.
   */
  readonly body: number | 'chunked' | 'until-close';
}

/** A response that violates HTTP. The message continues "the answer …". */
export class MalformedResponseError extends Error {
  override readonly name = 'MalformedResponseError';
}

const STATUS_LINE = /^HTTP\/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?$/;
const FIELD =
  /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*$/;
const LENGTH = /^\d{1,15}$/;

/**
 * @param text status line and headers as latin1, without the empty line after them
 * @throws MalformedResponseError for everything that the grammar forbids, for example folded lines and two different lengths,
 *   because two programs could read such a response differently
 */
export function parseResponseHead(text: string): ResponseHead {
  const [first = '', ...lines] = text.split('\r\n');
  const line = STATUS_LINE.exec(first);
  if (line === null) throw new MalformedResponseError('is not HTTP/1.1');
  const headers = new Map<string, string>();
  for (const one of lines) {
    const [, name, value = ''] = FIELD.exec(one) ?? [];
    if (name === undefined) throw new MalformedResponseError('has a malformed header');
    const key = name.toLowerCase();
    const before = headers.get(key);
    headers.set(key, before === undefined ? value : `${before}, ${value}`);
  }
  const status = Number(line[2]);
  const close = /(^|,)\s*close\s*(,|$)/i.test(headers.get('connection') ?? '');
  return {
    status,
    reason: line[3] ?? '',
    headers,
    keepAlive: line[1] === '1' && !close,
    body: bodyOf(status, headers),
  };
}

/** RFC 9112, 6.3, for responses to GET. */
function bodyOf(status: number, headers: ReadonlyMap<string, string>): ResponseHead['body'] {
  if (status === 204 || status === 304) return 0;
  // a repeated equal length is allowed (RFC 9110, 8.6)
  const [length, ...again] = headers.get('content-length')?.split(/\s*,\s*/) ?? [];
  if (length !== undefined && (!LENGTH.test(length) || again.some((other) => other !== length))) {
    throw new MalformedResponseError('has a malformed Content-Length');
  }
  const coding = headers.get('transfer-encoding')?.toLowerCase();
  // `identity` means no coding (RFC 2616, 3.6)
  if (coding !== undefined && coding !== 'identity') {
    if (length !== undefined) throw new MalformedResponseError('has both a Content-Length and a Transfer-Encoding');
    return coding === 'chunked' ? 'chunked' : 'until-close';
  }
  return length === undefined ? 'until-close' : Number(length);
}

/** The part of an object that a response contains. */
export interface ContentRange {
  readonly from: number;
  /** Size of the whole object in bytes; `undefined` if unknown. */
  readonly size: number | undefined;
}

/** The Content-Range of a response (RFC 9110, 14.4). Some servers write `Bytes 0-4/5` or `bytes=0-4/5`. */
export function contentRange(head: ResponseHead): ContentRange | undefined {
  const [, from, size] =
    /^bytes\s*[ =:]\s*(\d{1,15})\s*-\s*\d{1,15}\s*\/\s*(\d{1,15}|\*)$/i.exec(head.headers.get('content-range') ?? '') ??
    [];
  if (from === undefined) return undefined;
  return { from: Number(from), size: size === '*' ? undefined : Number(size) };
}

/** Whether an ETag is allowed in `If-Match` (RFC 9110, 8.8.3 and 13.1.1). */
export function isStrong(etag: string | undefined): etag is string {
  return etag !== undefined && /^"[\x21\x23-\x7e\x80-\xff]*"$/.test(etag);
}

/** Whether two ETags are equal, regardless of quotes and weakness. */
export function sameEtag(one: string, other: string): boolean {
  const bare = (etag: string): string => etag.replace(/^W\//, '').replaceAll('"', '');
  return bare(one) === bare(other);
}
