import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  type ServerResponse,
  request as send,
} from 'node:http';
import type { Socket } from 'node:net';
import { listen } from '../../dev/local-programs.ts';
import { errorBody } from './odd-s3.ts';

/** A fault of an answer. Byte counts refer to the body. A function is called for each answer. */
export type Fault =
  /** The connection is destroyed after so many bytes (0: after the headers), of a body in chunks if there is no length. */
  | { readonly kind: 'drop'; readonly afterBytes: number | (() => number); readonly noLength?: boolean }
  /** The connection is destroyed before the answer. */
  | { readonly kind: 'reset' }
  /** No more bytes are sent after so many; the connection stays open. */
  | { readonly kind: 'stall'; readonly afterBytes: number | (() => number) }
  /** The request is read and never answered. */
  | { readonly kind: 'silence' }
  /** An S3 error document instead of the answer, or `body`. */
  | { readonly kind: 'status'; readonly status: number; readonly code: string; readonly body?: string }
  /** Content-Length is too large by so much (and the answer breaks off), or too small if `by` is negative. */
  | { readonly kind: 'wrong-length'; readonly by: number }
  /** No Content-Length, and a regular end after so many bytes. */
  | { readonly kind: 'short'; readonly bytes: number }
  /** No Content-Length, and so many zero bytes after the object. */
  | { readonly kind: 'long'; readonly bytes: number }
  /** Range and If-Match are ignored: 200 and the whole object. */
  | { readonly kind: 'ignore-range' }
  /** The byte at this offset of the body is changed. */
  | { readonly kind: 'corrupt'; readonly at: number }
  /** So many bytes are sent at a time, with so many milliseconds between them. */
  | { readonly kind: 'trickle'; readonly bytes: number; readonly everyMs: number };

export interface FaultRule {
  readonly fault: Fault;
  /** The requests that the rule applies to. Default: all. `key` is the decoded path without the bucket. */
  readonly when?: (request: SeenRequest) => boolean;
  /** How often the rule applies. Default: always. After that, the next rule that matches applies. */
  readonly times?: number;
  /** Called before the request is forwarded, for example to change the object. */
  readonly before?: () => Promise<void>;
}

export interface SeenRequest {
  readonly method: string;
  readonly key: string;
  readonly query: URLSearchParams;
  readonly range: string | undefined;
  readonly headers: IncomingHttpHeaders;
}

export interface FaultyProxy {
  /** The S3 endpoint; the bucket is in the path. */
  readonly endpoint: string;
  /** Every request so far, oldest first. */
  readonly seen: readonly SeenRequest[];
  /** The number of open connections. */
  connections(): number;
  /** Bytes that the kernel has accepted for the open connections. */
  sent(): number;
  /** Replaces all rules. */
  rules(rules: readonly FaultRule[]): void;
  close(): Promise<void>;
}

/**
 * An HTTP proxy in front of a working S3 server (`target` is its endpoint). It changes answers by rules. A request that no
 * rule matches passes unchanged.
 */
export async function startFaultyProxy(options: {
  readonly target: string;
  readonly rules?: readonly FaultRule[];
  readonly port?: number;
}): Promise<FaultyProxy> {
  const seen: SeenRequest[] = [];
  const sockets = new Set<Socket>();
  const counted = (rules: readonly FaultRule[]) =>
    rules.map((rule) => ({ rule, left: rule.times ?? Number.POSITIVE_INFINITY }));
  let rules = counted(options.rules ?? []);

  const server = createServer((request, response) => {
    const [encoded = '', query = ''] = (request.url ?? '').split('?');
    const path = decodeURIComponent(encoded);
    const { range } = request.headers;
    const one = {
      method: request.method ?? '',
      key: path.replace(/^\/[^/]*\//, ''),
      query: new URLSearchParams(query),
      range,
      headers: request.headers,
    };
    seen.push(one);
    const found = rules.find(({ rule, left }) => left > 0 && (rule.when?.(one) ?? true));
    if (found !== undefined) found.left -= 1;
    answer(options.target, request, response, found?.rule).catch(() => request.socket.destroy());
  });
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  const port = await listen(server, options.port);
  return {
    endpoint: `http://127.0.0.1:${port}`,
    seen,
    connections: () => sockets.size,
    sent: () => [...sockets].reduce((sum, socket) => sum + socket.bytesWritten - socket.writableLength, 0),
    rules(next) {
      rules = counted(next);
    },
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answer(
  target: string,
  request: IncomingMessage,
  response: ServerResponse,
  rule: FaultRule | undefined,
): Promise<void> {
  await rule?.before?.();
  const fault = rule?.fault;
  if (fault?.kind === 'reset') return void request.socket.destroy();
  if (fault?.kind === 'silence') return void request.resume();
  if (fault?.kind === 'status') {
    request.resume();
    const body = fault.body ?? errorBody(fault.code);
    response.writeHead(fault.status, { 'content-type': 'application/xml' }).end(body);
    return;
  }
  const upstream = await forward(target, request, fault?.kind === 'ignore-range');
  const headers: OutgoingHttpHeaders = { ...upstream.headers };
  if (fault?.kind === 'wrong-length') headers['content-length'] = Number(headers['content-length']) + fault.by;
  if (hasNoLength(fault)) delete headers['content-length'];
  // otherwise Node refuses a wrong Content-Length
  response.strictContentLength = false;
  response.writeHead(upstream.statusCode ?? 502, headers);
  response.flushHeaders();
  await sendBody(upstream, response, fault);
}

function forward(target: string, request: IncomingMessage, plain: boolean): Promise<IncomingMessage> {
  const headers = { ...request.headers };
  // the signature covers these headers, but the server accepts unsigned requests
  if (plain) for (const name of ['range', 'if-match', 'authorization']) delete headers[name];
  return new Promise((resolve, reject) => {
    const outgoing = send(`${target}${request.url}`, { method: request.method, headers }, resolve);
    outgoing.once('error', reject);
    const stop = () => outgoing.destroy();
    request.socket.once('close', stop);
    outgoing.once('close', () => request.socket.off('close', stop));
    request.pipe(outgoing);
  });
}

async function sendBody(upstream: IncomingMessage, response: ServerResponse, fault: Fault | undefined): Promise<void> {
  const place = placeOf(fault);
  let sent = 0;
  for await (const chunk of upstream as AsyncIterable<Buffer>) {
    if (fault?.kind === 'corrupt' && fault.at >= sent && fault.at < sent + chunk.length) {
      chunk.writeUInt8(chunk.readUInt8(fault.at - sent) ^ 0xff, fault.at - sent);
    }
    const piece = chunk.subarray(0, Math.max(0, Math.min(chunk.length, place - sent)));
    for (const part of fault?.kind === 'trickle' ? pieces(piece, fault.bytes) : [piece]) {
      if (response.destroyed) return;
      if (part.length > 0) await write(response, part);
      if (fault?.kind === 'trickle') await new Promise((resolve) => setTimeout(resolve, fault.everyMs));
    }
    sent += piece.length;
    if (response.destroyed || sent >= place) break;
  }
  if (fault?.kind === 'stall') return;
  if (fault?.kind === 'drop' || (fault?.kind === 'wrong-length' && fault.by > 0)) {
    // the bytes before the fault must be sent first
    await new Promise<void>((resolve) => void response.write('', () => resolve()));
    await new Promise((resolve) => setTimeout(resolve, 5));
    response.socket?.destroy();
    return;
  }
  if (fault?.kind === 'long') await write(response, Buffer.alloc(fault.bytes));
  response.end();
}

const hasNoLength = (fault: Fault | undefined): boolean =>
  fault?.kind === 'short' || fault?.kind === 'long' || (fault?.kind === 'drop' && fault.noLength === true);

/** The number of bytes of the body before the fault. */
function placeOf(fault: Fault | undefined): number {
  if (fault?.kind === 'short') return fault.bytes;
  if (fault?.kind !== 'drop' && fault?.kind !== 'stall') return Number.POSITIVE_INFINITY;
  return typeof fault.afterBytes === 'number' ? fault.afterBytes : fault.afterBytes();
}

function pieces(chunk: Buffer, length: number): Buffer[] {
  return Array.from({ length: Math.ceil(chunk.length / length) }, (_, index) =>
    chunk.subarray(index * length, (index + 1) * length),
  );
}

/** Sends a chunk, and waits until the response takes more or is closed. */
export function write(response: ServerResponse, chunk: Buffer): Promise<void> {
  return new Promise((resolve) => {
    if (response.destroyed || response.write(chunk)) return resolve();
    const go = () => {
      response.off('drain', go).off('close', go);
      resolve();
    };
    response.once('drain', go).once('close', go);
  });
}
