import type { Agent, ClientRequest, get, IncomingMessage } from 'node:http';
import { abortError, throwIfAborted, UnpackError } from '../errors.ts';
import type { BlobSource, BlobStream, OpenOptions } from './blob-source.ts';
import { nodeHttp, nodeHttps } from './node-http.ts';
import { type Range, readInSegments, SEGMENT } from './range-reader.ts';
import { responseBody } from './response-body.ts';
import { s3Error, s3Location } from './s3-errors.ts';
import { watchSilence } from './silence.ts';
import type { HttpBlobSpec, HttpRequestSpec } from './source-spec.ts';

/** How one protocol is spoken; the agent's connections are kept for the next blob, and shared by all that this thread reads. */
interface Client {
  readonly get: typeof get;
  readonly agent: Agent;
}

const clients: { http?: Client; https?: Client } = {};

function clientFor(protocol: 'http' | 'https'): Client {
  const make = (): Client => {
    const { get, Agent } = protocol === 'https' ? nodeHttps() : nodeHttp();
    return { get, agent: new Agent({ keepAlive: true }) };
  };
  clients[protocol] ??= make();
  return clients[protocol];
}

/** Longest answer to a refused request that is read for its reason. */
const REASON_LIMIT = 64 * 1024;

/**
 * One blob under a URL that carries its own permission, as the S3 source lends it to another thread. A bare HTTP client
 * reads it: the AWS SDK costs a thread half a second and 40 MB before its first byte (measured).
 */
export function openHttpBlob(spec: HttpBlobSpec): BlobSource {
  const only = (): never => {
    throw new UnpackError('INTERNAL', `${spec.name} was lent for one blob alone`);
  };
  return {
    name: spec.name,
    maxResumes: spec.maxResumes,
    open: (_digest, options) => open(spec, options),
    lend: async () => spec,
    resolveTag: only,
    close: () => {},
  };
}

/** The whole object of a URL, whatever its size, by one request. @throws UnpackError as `BlobSource.open` */
export function openWhole(spec: HttpRequestSpec, signal: AbortSignal | undefined): Promise<BlobStream> {
  return request(spec, undefined, undefined, signal);
}

async function open(spec: HttpBlobSpec, options: OpenOptions): Promise<BlobStream> {
  const { offset = 0, etag, signal } = options;
  if (spec.size - offset <= SEGMENT) {
    return request(spec, offset === 0 ? undefined : { from: offset, to: undefined }, etag, signal);
  }
  const first = await request(spec, { from: offset, to: offset + SEGMENT - 1 }, etag, signal);
  // a server that knows no ranges sends everything, and one of another size will be refused
  if (first.offset !== offset || first.size !== spec.size) return first;
  return readInSegments(first, spec.size, (range) => request(spec, range, first.etag, signal));
}

async function request(
  spec: HttpRequestSpec,
  range: Range | undefined,
  etag: string | undefined,
  signal: AbortSignal | undefined,
): Promise<BlobStream> {
  throwIfAborted(signal);
  const headers: Record<string, string> = {
    ...(range === undefined ? {} : { Range: `bytes=${range.from}-${range.to ?? ''}` }),
    ...(range === undefined || etag === undefined ? {} : { 'If-Match': etag }),
  };
  const response = await send(spec, headers, signal);
  const status = response.statusCode ?? 0;
  if (status !== 200 && status !== 206) throw await refusal(spec, status, response);
  const contentRange = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers['content-range'] ?? '');
  const length = response.headers['content-length'];
  const size = contentRange === null ? length : contentRange[2] === '*' ? undefined : contentRange[2];
  return {
    size: size === undefined ? undefined : Number(size),
    etag: response.headers.etag,
    offset: contentRange === null ? 0 : Number(contentRange[1]),
    chunks: responseBody(response, {
      what: s3Location(spec.request),
      idleTimeout: spec.idleTimeout,
      signal,
      ...(range?.to === undefined ? {} : { readAhead: SEGMENT }),
    }),
  };
}

/** Sends, and ends at once on abort, on silence and where no connection comes about in time. */
function send(
  spec: HttpRequestSpec,
  headers: Record<string, string>,
  signal: AbortSignal | undefined,
): Promise<IncomingMessage> {
  const { connectTimeout, idleTimeout } = spec;
  const where = s3Location(spec.request);
  return new Promise((resolve, reject) => {
    const secure = spec.url.startsWith('https:');
    const { get, agent } = clientFor(secure ? 'https' : 'http');
    const sent: ClientRequest = get(spec.url, { headers, agent });
    let connecting: NodeJS.Timeout | undefined;
    const fail = (error: unknown): void => {
      finish();
      reject(error);
      sent.destroy();
    };
    const unavailable = (what: string): UnpackError => new UnpackError('SOURCE_UNAVAILABLE', `${where}: ${what}`);
    const silence = watchSilence(idleTimeout, () => fail(unavailable(`no answer came for ${idleTimeout / 1000} s`)));
    const onAbort = (): void => {
      if (signal !== undefined) fail(abortError(signal));
    };
    const finish = (): void => {
      silence.disarm();
      clearTimeout(connecting);
      signal?.removeEventListener('abort', onAbort);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    silence.arm();
    sent.once('socket', (socket) => {
      if (!socket.connecting) return;
      connecting = setTimeout(
        () => fail(unavailable(`no connection came about within ${connectTimeout / 1000} s`)),
        connectTimeout,
      );
      socket.once(secure ? 'secureConnect' : 'connect', () => clearTimeout(connecting));
    });
    // stays for the request's whole life: an error after its end must not end the process
    sent.on('error', (cause) => fail(s3Error(cause, spec.request)));
    sent.once('response', (response) => {
      finish();
      resolve(response);
    });
  });
}

/** What a refused request says of itself, as the failure that it would be through the SDK. */
async function refusal(spec: HttpRequestSpec, status: number, response: IncomingMessage): Promise<UnpackError> {
  let text = '';
  try {
    const reading = responseBody(response, { what: s3Location(spec.request), idleTimeout: spec.idleTimeout });
    for await (const chunk of reading) {
      text += chunk.toString('latin1');
      if (text.length > REASON_LIMIT) break;
    }
  } catch {
    // the status alone must do
  }
  const tag = (name: string): string | undefined => new RegExp(`<${name}>([^<]{0,500})</${name}>`).exec(text)?.[1];
  const thrown = Object.assign(new Error(tag('Message') ?? response.statusMessage ?? 'no reason given'), {
    name: tag('Code') ?? '',
    $metadata: { httpStatusCode: status },
  });
  return s3Error(thrown, spec.request);
}
