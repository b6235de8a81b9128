import { type ClientHttp2Session, type ClientHttp2Stream, connect } from 'node:http2';
import { connect as connectSocket } from 'node:net';
import { encode, type Message } from './protobuf.ts';

/** A call that the server answered with a status other than OK (gRPC, statuscodes). */
export class GrpcError extends Error {
  override readonly name = 'GrpcError';
  readonly status: number;

  constructor(method: string, status: number, message: string) {
    super(`${method}: ${message} (status ${status})`);
    this.status = status;
  }
}

/**
 * gRPC over a Unix socket, with Node's HTTP/2. containerd's command line tool does not report which layer it refused, or
 * where a committed snapshot is, and needs a process per call. Its services report both in a few milliseconds.
 */
export class GrpcConnection {
  private readonly session: ClientHttp2Session;
  private readonly headers: Readonly<Record<string, string>>;

  constructor(socket: string, headers: Readonly<Record<string, string>>) {
    this.session = connect('http://localhost', { createConnection: () => connectSocket(socket) });
    this.session.on('error', () => {}); // each call reports its own errors
    this.headers = headers;
  }

  /** Sends the messages of one call and returns the last answer. @throws GrpcError */
  call(method: string, ...messages: readonly Message[]): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const stream = this.session.request({
        ':method': 'POST',
        ':path': `/${method}`,
        'content-type': 'application/grpc',
        te: 'trailers',
        ...this.headers,
      });
      const pieces: Buffer[] = [];
      let status: { code: number; message: string } | undefined;
      const readStatus = (headers: Readonly<Record<string, string | string[] | undefined>>): void => {
        if (headers['grpc-status'] === undefined) return;
        status = { code: Number(headers['grpc-status']), message: unescaped(`${headers['grpc-message'] ?? ''}`) };
      };
      stream.on('response', readStatus).on('trailers', readStatus);
      stream.on('data', (piece: Buffer) => pieces.push(piece));
      stream.once('error', reject);
      stream.once('end', () => {
        if (status?.code === 0) resolve(lastMessage(Buffer.concat(pieces)));
        else reject(new GrpcError(method, status?.code ?? -1, status?.message ?? 'the answer broke off'));
      });
      send(stream, messages).catch(reject);
    });
  }

  close(): void {
    this.session.destroy();
  }
}

/** Sends one message after the other, with back-pressure: Node ends a session with more than 10 MB to send. */
async function send(stream: ClientHttp2Stream, messages: readonly Message[]): Promise<void> {
  for (const message of messages) {
    if (stream.closed) return; // the server has refused the call already
    if (stream.write(framed(encode(message)))) continue;
    await new Promise<void>((resolve) => {
      const proceed = (): void => {
        stream.off('drain', proceed).off('close', proceed);
        resolve();
      };
      stream.on('drain', proceed).on('close', proceed);
    });
  }
  stream.end();
}

/** Decodes percent-encoded bytes. A file's name may not be UTF-8. */
function unescaped(text: string): string {
  return text.replace(/%([0-9A-Fa-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

/** A gRPC frame: a zero byte for "not compressed", four bytes for the length, the message. */
function framed(message: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

function lastMessage(frames: Buffer): Buffer {
  let message: Buffer = Buffer.alloc(0);
  for (let at = 0; at + 5 <= frames.length; at += 5 + message.length) {
    message = frames.subarray(at + 5, at + 5 + frames.readUInt32BE(at + 1));
  }
  return message;
}
