import { existsSync, readFileSync, statSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { join, normalize } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { libc, systemError } from '../../src/system/libc.ts';

const setSocketOption: (fd: number, level: number, name: number, value: Buffer, length: number) => number = libc.func(
  'int setsockopt(int, int, int, void *, uint32)',
);

/**
 * Serves a folder as an S3 bucket, read only: GET and HEAD with ranges. It must use little of the measured machine, so it
 * keeps objects in memory after the first request, and sends a small answer with one write. It reads requests from bare
 * sockets, because node:http takes twice the CPU time for a small object (70 instead of 36 µs, measured). It expects requests
 * without a body, and the next request only after the answer.
 *
 * Like a real S3 server, it can wait before the first byte and limit the bytes per second of each connection. The kernel
 * limits them (SO_MAX_PACING_RATE): this is exact on a busy machine too, and takes a third of the CPU time of timers (0.17
 * instead of 0.5 s per GB).
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
/** Maximum bytes of a body that is copied behind its head, so that one write sends both. */
const COPIED = 16 * 1024;

interface Statistics {
  requests: number;
  bytes: number;
  /** The most answers that were being sent at the same time. */
  mostAtOnce: number;
}

const none = (): Statistics => ({ requests: 0, bytes: 0, mostAtOnce: 0 });
let statistics = none();
let atOnce = 0;
/** By the path in the request. */
const objects = new Map<string, Buffer>();

const server = createServer({ noDelay: true }, (socket) => {
  if (BYTES_PER_SECOND > 0) pace(socket);
  let received = '';
  socket.setEncoding('latin1');
  socket.on('data', (text) => {
    received += text;
    if (!received.endsWith('\r\n\r\n')) return;
    const request = received;
    received = '';
    serve(request, socket);
  });
  socket.on('error', () => socket.destroy());
});
server.listen(0, '127.0.0.1', () => {
  process.stdout.write(`${(server.address() as AddressInfo).port}\n`); // a TCP server's address is never a string
});
process.stdin.resume().on('end', () => process.exit(0));

function serve(request: string, socket: Socket): void {
  const [, method, path = '/'] = /^([A-Z]+) ([^ ?]*)/.exec(request) ?? [];
  if (path === '/-/statistics') {
    send(socket, '200 OK', '', Buffer.from(JSON.stringify(statistics)));
    statistics = none();
    return;
  }
  const [, from, to = ''] = /\r\nrange: bytes=(\d+)-(\d*)\r\n/i.exec(request) ?? [];
  const answer = () => answerWith(objectAt(path), method === 'HEAD', from, to, socket);
  const wait = FIRST_BYTE_MS + (from === undefined ? 0 : RANGE_MS);
  if (wait > 0) void sleep(wait).then(answer);
  else answer();
}

function answerWith(
  object: Buffer | undefined,
  isHead: boolean,
  from: string | undefined,
  to: string,
  socket: Socket,
): void {
  if (object === undefined) {
    const xml = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code><Message>none</Message></Error>';
    send(socket, '404 Not Found', 'content-type: application/xml\r\n', Buffer.from(xml), isHead);
    return;
  }
  const start = from === undefined ? 0 : Number(from);
  const end = to === '' ? object.length : Math.min(Number(to) + 1, object.length);
  const fields = `etag: "${object.length}"\r\naccept-ranges: bytes\r\n`;
  const body = object.subarray(start, end);
  if (!isHead) {
    statistics.requests++;
    statistics.bytes += body.length;
    statistics.mostAtOnce = Math.max(statistics.mostAtOnce, ++atOnce);
  }
  const onSent = isHead ? undefined : () => atOnce--;
  if (from === undefined) send(socket, '200 OK', fields, body, isHead, onSent);
  else {
    const range = `content-range: bytes ${start}-${end - 1}/${object.length}\r\n`;
    send(socket, '206 Partial Content', fields + range, body, isHead, onSent);
  }
}

function send(socket: Socket, status: string, fields: string, body: Buffer, isHead = false, onSent?: () => void): void {
  const head = `HTTP/1.1 ${status}\r\n${fields}content-length: ${body.length}\r\n\r\n`;
  if (isHead) {
    socket.write(head, 'latin1');
  } else if (body.length <= COPIED) {
    const answer = Buffer.allocUnsafe(head.length + body.length);
    answer.write(head, 0, 'latin1');
    body.copy(answer, head.length);
    socket.write(answer, onSent);
  } else {
    socket.cork();
    socket.write(head, 'latin1');
    socket.write(body, onSent);
    socket.uncork();
  }
}

/** asm-generic/socket.h */
const SOL_SOCKET = 1;
const SO_MAX_PACING_RATE = 47;

function pace(socket: Socket): void {
  const { fd } = (socket as Socket & { readonly _handle: { readonly fd: number } })._handle; // Node has no other way to it
  const rate = Buffer.alloc(8);
  rate.writeBigUInt64LE(BigInt(BYTES_PER_SECOND));
  const failed = setSocketOption(fd, SOL_SOCKET, SO_MAX_PACING_RATE, rate, rate.length);
  if (failed !== 0) throw systemError('setsockopt');
}

function objectAt(path: string): Buffer | undefined {
  const known = objects.get(path);
  if (known !== undefined) return known;
  const file = join(folder, normalize(decodeURIComponent(path)));
  if (!existsSync(file) || !statSync(file).isFile()) return undefined;
  const object = readFileSync(file);
  objects.set(path, object);
  return object;
}
