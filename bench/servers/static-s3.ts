import { existsSync, readFileSync, statSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join, normalize } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * A folder as an S3 bucket that is only read: GET and HEAD with ranges, as fast as Node can, so that the server takes
 * little of the machine that is measured. Objects are kept in memory once they were asked for. As S3 in life it waits
 * before the first byte and gives each connection no more than so many bytes a second.
 *
 *     node static-s3.ts FOLDER [FIRST_BYTE_MS BYTES_PER_SECOND]      then prints its port
 *
 * GET /-/statistics tells what was asked since the last such question, as JSON.
 */
const [folder = '.', firstByte = '0', rate = '0'] = process.argv.slice(2);
const FIRST_BYTE_MS = Number(firstByte);
const BYTES_PER_SECOND = Number(rate);
/** Bytes of one write: small where time is shared out, large where only speed counts. */
const PIECE = BYTES_PER_SECOND > 0 ? 128 << 10 : 1 << 20;

interface Statistics {
  requests: number;
  bytes: number;
  /** Answers that were being sent at once. */
  mostAtOnce: number;
}

const none = (): Statistics => ({ requests: 0, bytes: 0, mostAtOnce: 0 });
let statistics = none();
let atOnce = 0;
const objects = new Map<string, Buffer>();

const server = createServer((request, response) => {
  if (request.url === '/-/statistics') {
    response.end(JSON.stringify(statistics));
    statistics = none();
    return;
  }
  const path = normalize(decodeURIComponent((request.url ?? '/').split('?')[0] ?? '/'));
  serve(join(folder, path), request.method === 'HEAD', request.headers.range, response).catch(() => response.destroy());
});
server.listen(0, '127.0.0.1', () => {
  process.stdout.write(`${(server.address() as AddressInfo).port}\n`); // a TCP server's address is never a string
});
process.stdin.resume().on('end', () => process.exit(0));

async function serve(path: string, head: boolean, range: string | undefined, response: ServerResponse): Promise<void> {
  if (FIRST_BYTE_MS > 0) await sleep(FIRST_BYTE_MS);
  const object = objectAt(path);
  if (object === undefined) {
    const xml = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code><Message>none</Message></Error>';
    response.writeHead(404, { 'content-type': 'application/xml' }).end(xml);
    return;
  }
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(range ?? '') ?? [];
  const start = from === undefined ? 0 : Number(from);
  const end = to === undefined || to === '' ? object.length : Math.min(Number(to) + 1, object.length);
  const headers = { etag: `"${object.length}"`, 'accept-ranges': 'bytes', 'content-length': end - start };
  if (from === undefined) response.writeHead(200, headers);
  else response.writeHead(206, { ...headers, 'content-range': `bytes ${start}-${end - 1}/${object.length}` });
  if (head) return void response.end();
  statistics.requests++;
  statistics.mostAtOnce = Math.max(statistics.mostAtOnce, ++atOnce);
  try {
    await send(object.subarray(start, end), response);
  } finally {
    atOnce--;
  }
  response.end();
}

async function send(bytes: Buffer, response: ServerResponse): Promise<void> {
  const started = performance.now();
  for (let at = 0; at < bytes.length && !response.destroyed; at += PIECE) {
    const piece = bytes.subarray(at, at + PIECE);
    statistics.bytes += piece.length;
    if (!response.write(piece)) await drained(response);
    if (BYTES_PER_SECOND === 0) continue;
    const due = ((at + piece.length) / BYTES_PER_SECOND) * 1000;
    const early = due - (performance.now() - started);
    if (early > 1) await sleep(early);
  }
}

function drained(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done).off('close', done);
      resolve();
    };
    response.on('drain', done).on('close', done);
  });
}

function objectAt(path: string): Buffer | undefined {
  const known = objects.get(path);
  if (known !== undefined) return known;
  if (!existsSync(path) || !statSync(path).isFile()) return undefined;
  const object = readFileSync(path);
  objects.set(path, object);
  return object;
}
