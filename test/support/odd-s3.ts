import { createServer, type Socket } from 'node:net';
import { listen } from '../../dev/local-programs.ts';

/** A request that the server has received. */
export interface OddRequest {
  /** Decoded path without the bucket. */
  readonly key: string;
  readonly query: URLSearchParams;
  readonly headers: ReadonlyMap<string, string>;
  /** The requested bytes, limited to the length of the object. `undefined`: all of it. */
  readonly range: { readonly from: number; readonly to: number } | undefined;
  /** The number of earlier requests for this key. */
  readonly before: number;
}

/** An answer that a quirk may change. Nothing in it is checked. */
export interface OddAnswer {
  version: string;
  status: string;
  /** Header lines. */
  headers: string[];
  body: Buffer;
  /** How the end of the body is marked. */
  length: 'content-length' | 'chunked' | 'both' | 'none';
  /** Milliseconds before the answer. */
  wait: number;
  /** Bytes of one write, and milliseconds between two writes. */
  pace: { readonly bytes: number; readonly every: number } | undefined;
  /** The connection ends after so many bytes of the body. Infinity: it stays open. */
  endAfter: number;
}

/** Changes the answer to a request. */
export type Quirk = (request: OddRequest, answer: OddAnswer) => void;

export interface OddS3 {
  readonly endpoint: string;
  readonly seen: readonly OddRequest[];
  close(): void;
}

export const errorBody = (code: string, more = ''): Buffer =>
  Buffer.from(`<?xml version="1.0"?><Error><Code>${code}</Code><Message>made up by the test</Message>${more}</Error>`);

/** Turns an answer into an error of S3. */
export function refuse(answer: OddAnswer, status: string, code: string, headers: string[] = [], more = ''): void {
  answer.status = status;
  answer.headers = ['Content-Type: application/xml', ...headers];
  answer.body = errorBody(code, more);
}

/** An S3 server that writes its answers as raw bytes, so that a quirk can send what Node's HTTP server refuses to send. */
export async function startOddS3(objects: ReadonlyMap<string, Buffer>, quirk: Quirk): Promise<OddS3> {
  const seen: OddRequest[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
    let text = '';
    let busy = Promise.resolve();
    socket.on('data', (data) => {
      text += data.toString('latin1');
      for (let end = text.indexOf('\r\n\r\n'); end >= 0; end = text.indexOf('\r\n\r\n')) {
        const head = text.slice(0, end);
        text = text.slice(end + 4);
        busy = busy.then(() => answerOne(socket, head)).catch(() => void socket.destroy());
      }
    });
  });

  async function answerOne(socket: Socket, head: string): Promise<void> {
    const [line = '', ...fields] = head.split('\r\n');
    const url = new URL(line.split(' ')[1] ?? '/', 'http://x');
    const key = decodeURIComponent(url.pathname).replace(/^\/[^/]*\//, '');
    const object = objects.get(key);
    const headers = new Map(
      fields.map((field) => [field.split(':')[0]?.toLowerCase() ?? '', field.replace(/^[^:]*:\s*/, '')]),
    );
    const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(headers.get('range') ?? '') ?? [];
    const size = object?.length ?? 0;
    const range =
      first === undefined
        ? undefined
        : { from: Number(first), to: last === '' ? size : Math.min(Number(last) + 1, size) };
    const request = {
      key,
      query: url.searchParams,
      headers,
      range,
      before: seen.filter((one) => one.key === key).length,
    };
    seen.push(request);
    const answer: OddAnswer = {
      version: '1.1',
      status: range === undefined ? '200 OK' : '206 Partial Content',
      headers: [
        `ETag: "${key.slice(-8)}"`,
        ...(range === undefined ? [] : [`Content-Range: bytes ${range.from}-${range.to - 1}/${size}`]),
      ],
      body: object?.subarray(range?.from ?? 0, range?.to ?? size) ?? Buffer.alloc(0),
      length: 'content-length',
      wait: 0,
      pace: undefined,
      endAfter: Number.POSITIVE_INFINITY,
    };
    if (object === undefined) refuse(answer, '404 Not Found', 'NoSuchKey');
    quirk(request, answer);
    await write(socket, answer);
  }

  const port = await listen(server);
  return {
    endpoint: `http://127.0.0.1:${port}`,
    seen,
    close() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

async function write(socket: Socket, answer: OddAnswer): Promise<void> {
  const { body, length, pace, endAfter } = answer;
  const lengths = [
    ...(length === 'content-length' || length === 'both' ? [`Content-Length: ${body.length}`] : []),
    ...(length === 'chunked' || length === 'both' ? ['Transfer-Encoding: chunked'] : []),
  ];
  const lines = [`HTTP/${answer.version} ${answer.status}`, ...answer.headers, ...lengths];
  if (answer.wait > 0) await new Promise((resolve) => setTimeout(resolve, answer.wait));
  socket.write(`${lines.join('\r\n')}\r\n\r\n`);
  const chunked = length === 'chunked' || length === 'both';
  const sent = body.subarray(0, endAfter);
  const step = pace?.bytes ?? 256 * 1024;
  for (let at = 0; at < sent.length && !socket.destroyed; at += step) {
    const piece = sent.subarray(at, at + step);
    if (chunked) socket.write(`${piece.length.toString(16)}\r\n`);
    const room = socket.write(piece);
    if (chunked) socket.write('\r\n');
    if (pace !== undefined) await new Promise((resolve) => setTimeout(resolve, pace.every));
    else if (!room) await new Promise((resolve) => socket.once('drain', resolve).once('close', resolve));
  }
  if (endAfter < Number.POSITIVE_INFINITY || length === 'none') socket.end();
  else if (chunked) socket.write('0\r\n\r\n');
}
