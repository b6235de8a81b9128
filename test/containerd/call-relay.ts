import {
  type ClientHttp2Session,
  connect,
  constants,
  type IncomingHttpHeaders,
  performServerHandshake,
  type ServerHttp2Stream,
} from 'node:http2';
import { connect as connectSocket, createServer, type Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';

/**
 * A socket between a program and containerd that passes each call on, and stops before and after each: so a test can kill one
 * of the two at every step. A broken connection on one side breaks the other.
 */
export interface RelayedCall {
  /** Such as `Snapshots/Prepare`. */
  readonly method: string;
  /** The number of the call, from 0 on. */
  readonly number: number;
}

export interface RelayHooks {
  /** Before containerd gets the call. */
  readonly before?: (call: RelayedCall) => Promise<void>;
  /** After containerd has answered, before the program gets the answer. */
  readonly after?: (call: RelayedCall) => Promise<void>;
}

interface Answer {
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  readonly trailers: IncomingHttpHeaders | undefined;
}

export class CallRelay implements AsyncDisposable {
  readonly socket: string;
  readonly #server = createServer();
  readonly #connections = new Set<Disposable>();
  #hooks: RelayHooks = {};
  #calls = 0;

  private constructor(socket: string, target: string) {
    this.socket = socket;
    this.#server.on('connection', (incoming) => this.#accept(incoming, connectSocket(target)));
  }

  /** @param socket the new one @param target containerd's */
  static async start(socket: string, target: string): Promise<CallRelay> {
    const relay = new CallRelay(socket, target);
    await new Promise<void>((resolve, reject) => relay.#server.once('error', reject).listen(socket, resolve));
    return relay;
  }

  /** Counts the calls from 0 again. @returns how many there were */
  watch(hooks: RelayHooks = {}): number {
    const calls = this.#calls;
    this.#hooks = hooks;
    this.#calls = 0;
    return calls;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const connection of this.#connections) connection[Symbol.dispose]();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #accept(incoming: Socket, outgoing: Socket): void {
    const session = performServerHandshake(incoming);
    const upstream = connect('http://localhost', { createConnection: () => outgoing });
    const connection = {
      // the sockets, because the end of a session is a message: a killed process sends none
      [Symbol.dispose]: () => {
        incoming.destroy();
        outgoing.destroy();
        this.#connections.delete(connection);
      },
    };
    this.#connections.add(connection);
    for (const each of [session, upstream, incoming, outgoing]) {
      // each call reports its own error
      each.on('error', () => {}).on('close', connection[Symbol.dispose]);
    }
    session.on('stream', (stream, headers) => {
      stream.on('error', () => {});
      this.#pass(stream, headers, upstream).catch(connection[Symbol.dispose]);
    });
  }

  async #pass(stream: ServerHttp2Stream, headers: IncomingHttpHeaders, upstream: ClientHttp2Session): Promise<void> {
    const hooks = this.#hooks;
    const path = headers[':path'] ?? '';
    const call = { method: path.slice(path.lastIndexOf('.') + 1), number: this.#calls++ };
    const request = await buffer(stream);
    await hooks.before?.(call);
    const answer = await ask(upstream, headers, request);
    await hooks.after?.(call);
    if (stream.destroyed) return;
    const { [constants.HTTP2_HEADER_CONNECTION]: _, ...rest } = answer.headers;
    stream.respond(rest, { waitForTrailers: answer.trailers !== undefined, endStream: answer.trailers === undefined });
    if (answer.trailers === undefined) return;
    stream.once('wantTrailers', () => stream.sendTrailers(answer.trailers ?? {}));
    stream.end(answer.body);
  }
}

function ask(upstream: ClientHttp2Session, headers: IncomingHttpHeaders, request: Buffer): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const call = upstream.request(headers);
    let first: IncomingHttpHeaders = {};
    let trailers: IncomingHttpHeaders | undefined;
    call.once('response', (received) => {
      first = received;
    });
    call.once('trailers', (received) => {
      trailers = received;
    });
    const pieces: Buffer[] = [];
    call.on('data', (piece: Buffer) => pieces.push(piece));
    call.once('error', reject);
    call.once('close', () => {
      // an answer without a status is of a containerd that died
      if (first['grpc-status'] === undefined && trailers === undefined) reject(new Error('the answer broke off'));
      else resolve({ headers: first, body: Buffer.concat(pieces), trailers });
    });
    call.end(request);
  });
}
