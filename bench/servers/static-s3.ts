import { existsSync, readFileSync, statSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { join, normalize } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { libc, systemError } from '../../src/system/libc.ts';

const setSocketOption: (fd: number, level: number, name: number, value: Buffer, length: number) => number = libc.func(
  'int setsockopt(int, int, int, void *, uint32)',
);

/**
 * Serves a folder as an S3 bucket, read only: GET and HEAD with ranges. It must use little of the measured machine, so it
 * keeps objects in memory after the first request and sends an answer with one write. Like a real S3 server, it can wait
 * before the first byte and limit the bytes per second of each connection. The kernel limits them (SO_MAX_PACING_RATE):
 * this is exact on a busy machine too, and takes a third of the CPU time of timers (0.17 instead of 0.5 s per GB).
 *
 *     node static-s3.ts FOLDER [FIRST_BYTE_MS BYTES_PER_SECOND [RANGE_MS]]      prints its port
 *
 * RANGE_MS is the wait before each answer to a range, because some servers read the whole object for each range.
 *
 * GET /-/statistics returns the statistics since the last such request, as JSON.
 */
const [folder = '.', firstByte = '0', rate = '0', range = '0'] = process.argv.slice(2);
const FIRST_BYTE_MS = Number(firstByte);
const BYTES_PER_SECOND = Number(rate);
const RANGE_MS = Number(range);

interface Statistics {
  requests: number;
  bytes: number;
  /** The most answers that were being sent at the same time. */
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
if (BYTES_PER_SECOND > 0) server.on('connection', pace);
server.listen(0, '127.0.0.1', () => {
  process.stdout.write(`${(server.address() as AddressInfo).port}\n`); // a TCP server's address is never a string
});
process.stdin.resume().on('end', () => process.exit(0));

async function serve(path: string, head: boolean, range: string | undefined, response: ServerResponse): Promise<void> {
  const wait = FIRST_BYTE_MS + (range === undefined ? 0 : RANGE_MS);
  if (wait > 0) await sleep(wait);
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
  statistics.bytes += end - start;
  statistics.mostAtOnce = Math.max(statistics.mostAtOnce, ++atOnce);
  response.once('close', () => atOnce--);
  response.end(object.subarray(start, end));
}

/** asm-generic/socket.h */
const SOL_SOCKET = 1;
const SO_MAX_PACING_RATE = 47;

function pace(socket: Socket): void {
  const { fd } = (socket as Socket & { readonly _handle: { readonly fd: number } })._handle; // Node has no public API for it
  const rate = Buffer.alloc(8);
  rate.writeBigUInt64LE(BigInt(BYTES_PER_SECOND));
  const failed = setSocketOption(fd, SOL_SOCKET, SO_MAX_PACING_RATE, rate, rate.length);
  if (failed !== 0) throw systemError('setsockopt');
}

function objectAt(path: string): Buffer | undefined {
  const known = objects.get(path);
  if (known !== undefined) return known;
  if (!existsSync(path) || !statSync(path).isFile()) return undefined;
  const object = readFileSync(path);
  objects.set(path, object);
  return object;
}
