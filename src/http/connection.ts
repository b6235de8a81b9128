import { connect, type Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import { ChunkedDecoder } from './chunked.ts';
import type { HttpProxy, Server } from './proxy.ts';
import { MalformedResponseError, parseResponseHead, type ResponseHead } from './response-head.ts';
import { idleTimer } from './timeouts.ts';
import { type CaBundle, nodeTls } from './trusted-cas.ts';
import { connectToProxy, openTunnel, overdueProxy, tlsOptions, unreached } from './tunnel.ts';

/**
 * Maximum size in bytes of the status line and headers of a response, including the informational responses (1xx)
 * before it.
 */
const HEAD_LIMIT = 64 * 1024;

/** Receives the response to one request. */
export interface ResponseHandler {
  /**
   * @returns the receiver of the body. If it returns `undefined`, the connection is closed and no method is called any
   * more.
   */
  begin(head: ResponseHead): BodyHandler | undefined;
  /** There is no response. */
  fail(cause: Error): void;
}

/** Receives the body of a response: `filled` again and again, then `end`; or `fail` at any time. */
export interface BodyHandler {
  /**
   * Returns memory for the next bytes: a buffer of at least one byte. It is possibly called once more after `filled`
   * has returned false.
   */
  buffer(): Buffer;
  /**
   * `count` bytes of the last buffer were filled.
   * @returns false to pause until `resume`; a few more bytes can arrive after that
   */
  filled(count: number): boolean;
  /** The body is complete, and the connection can be reused. */
  end(): void;
  fail(cause: Error): void;
}

/** A server, and how to connect to it. */
export interface Origin extends Server {
  readonly caBundle?: CaBundle | undefined;
  /**
   * The proxy for this server. With TLS it makes a tunnel; without TLS it answers requests with the URL of the server (RFC 9112,
   * 3.2.2).
   */
  readonly proxy?: HttpProxy | undefined;
}

export interface ConnectionOptions {
  /** Time limit in milliseconds for opening the connection, including the proxy and TLS. */
  readonly connectTimeout: number;
  /** The CAs to trust instead of Node's. */
  readonly secureContext: SecureContext | undefined;
  readonly onClose: () => void;
}

/**
 * One connection of an HTTP/1.1 client that only sends GET requests, and reads bodies into memory of its user. Node's own client
 * makes a buffer and several objects for every 64 KiB, which costs four times as much as reading (1.4 s instead of 0.3 s of a
 * processor for each GB, measured).
 *
 *     idle ──send()──▶ head ──status line and headers──▶ body ──last byte──▶ idle
 *     from each of them ──error, destroy(), end of the connection──▶ closed
 *
 * A new connection is idle while it connects. If bytes arrive on an idle connection, the connection is closed.
 */
export class HttpConnection {
  /** The connection to the server. While a proxy opens a tunnel: the connection to the proxy. */
  #socket: Socket;
  /** The request that waits until the tunnel is open; `''`: none. */
  #unsent: string | undefined;
  /** Memory for data that is not read into buffers of the user: heads, and bodies in chunks. */
  readonly #own = Buffer.allocUnsafeSlow(HEAD_LIMIT);
  readonly #onClose: () => void;
  #state: 'idle' | 'head' | 'body' | 'closed' = 'idle';
  /** In `head`. */
  #handler: ResponseHandler | undefined;
  #headLength = 0;
  /** In `body`. */
  #body: BodyHandler | undefined;
  #chunks: ChunkedDecoder | undefined;
  /** Number of missing bytes of the body; Infinity if the length is unknown. */
  #left = 0;
  #keepAlive = true;
  #requests = 0;
  /** Whether bytes have arrived since the last request. */
  #answered = false;

  constructor(origin: Origin, { connectTimeout, secureContext, onClose }: ConnectionOptions) {
    this.#onClose = onClose;
    const { proxy, secure } = origin;
    const connecting = idleTimer(connectTimeout, () => {
      const overdue =
        proxy === undefined
          ? timeoutError(`no connection was opened within ${connectTimeout / 1000} s`)
          : overdueProxy(proxy, connectTimeout);
      this.#close(overdue);
    });
    connecting.start();
    const ready = () => connecting.stop();
    if (proxy === undefined || !secure) {
      const { host, port } = proxy ?? origin;
      const onread = { buffer: () => this.#buffer(), callback: (count: number) => this.#read(count) };
      const options = { host, port, noDelay: true, keepAlive: true, onread };
      const isSecure = proxy?.secure ?? secure;
      this.#socket = isSecure
        ? nodeTls().connect({ ...options, ...tlsOptions(host, { secureContext }) })
        : connect(options);
      this.#watch(this.#socket, proxy, isSecure ? 'secureConnect' : 'connect', ready);
    } else {
      this.#unsent = '';
      this.#socket = connectToProxy(proxy, { secureContext });
      this.#openTunnel(origin, proxy, secureContext, ready);
    }
    this.#socket.once('close', ready);
  }

  get idle(): boolean {
    return this.#state === 'idle';
  }

  /**
   * Whether a failed request was not answered on a reused connection: the server has possibly closed the connection
   * before the request.
   */
  get stale(): boolean {
    return this.#requests > 1 && !this.#answered;
  }

  /** Sends a request on an idle connection. @param request the head of the request, including the empty line */
  send(request: string, handler: ResponseHandler): void {
    this.#expect('idle');
    this.#state = 'head';
    this.#handler = handler;
    this.#headLength = 0;
    this.#answered = false;
    this.#requests += 1;
    if (this.#unsent === undefined) this.#socket.write(request, 'latin1');
    else this.#unsent = request;
  }

  /** Continues a body that was paused by `filled`. */
  resume(): void {
    if (this.#state !== 'closed') this.#socket.resume();
  }

  /** Whether an open connection keeps the process alive. */
  keepProcessAlive(keep: boolean): void {
    if (keep) this.#socket.ref();
    else this.#socket.unref();
  }

  /** Closes the connection. No handler is called any more. */
  destroy(): void {
    this.#close(undefined);
  }

  #openTunnel(origin: Origin, proxy: HttpProxy, secureContext: SecureContext | undefined, ready: () => void): void {
    const { host } = origin;
    const outer = this.#socket;
    const opened = () => {
      if (this.#isClosed()) return;
      const socket = nodeTls().connect({ socket: outer, ...tlsOptions(host, { secureContext }) });
      this.#socket = socket;
      this.#watch(socket, undefined, 'secureConnect', ready);
      socket.once('close', ready);
      // Node reads into memory of the user only from its own sockets, not from one inside another
      socket.on('data', (bytes: Buffer) => this.#copyFrom(bytes));
      const request = this.#unsent;
      this.#unsent = undefined;
      if (request !== undefined && request !== '') socket.write(request, 'latin1');
    };
    openTunnel(outer, proxy, origin).then(opened, (cause: Error) => {
      this.#close(cause);
      this.#onClose();
    });
  }

  /** @param proxy that the socket connects to; its errors are then those of the proxy */
  #watch(
    socket: Socket,
    proxy: HttpProxy | undefined,
    connected: 'connect' | 'secureConnect',
    ready: () => void,
  ): void {
    let reached = false;
    socket.once(connected, () => {
      reached = true;
      ready();
    });
    // stays for the whole life of the socket, because an unhandled error would crash the process
    socket.on('error', (cause) => this.#close(proxy === undefined || reached ? cause : unreached(proxy, cause)));
    socket.once('close', () => this.#onEnd());
  }

  /** Reads bytes that Node has read into its own memory. */
  #copyFrom(bytes: Buffer): void {
    let goesOn = true;
    for (let at = 0; at < bytes.length && !this.#isClosed(); ) {
      const count = bytes.copy(this.#buffer(), 0, at);
      at += count;
      goesOn = this.#read(count);
    }
    if (!goesOn) this.#socket.pause();
  }

  #buffer(): Buffer {
    if (this.#state === 'head') return this.#own.subarray(this.#headLength);
    // chunks are decoded from here; bytes without a request are discarded
    if (this.#body === undefined || this.#chunks !== undefined) return this.#own;
    const buffer = this.#body.buffer();
    return buffer.length > this.#left ? buffer.subarray(0, this.#left) : buffer;
  }

  /** @returns whether reading continues */
  #read(count: number): boolean {
    this.#answered = true;
    try {
      switch (this.#state) {
        case 'head':
          return this.#readHead(count);
        case 'body':
          if (this.#chunks !== undefined) return this.#readChunks(this.#chunks, this.#own.subarray(0, count));
          return this.#readBody(count);
        default:
          this.#close(undefined);
          return false;
      }
    } catch (error) {
      if (!(error instanceof MalformedResponseError)) throw error;
      this.#close(error);
      return false;
    }
  }

  #readHead(count: number): boolean {
    let from = Math.max(0, this.#headLength - 3);
    this.#headLength += count;
    for (;;) {
      const bytes = this.#own.subarray(0, this.#headLength);
      const end = endOfHead(bytes, from);
      if (end === undefined) {
        if (this.#headLength < HEAD_LIMIT) return true;
        throw new MalformedResponseError(`has more than ${HEAD_LIMIT} bytes of headers`);
      }
      const head = parseResponseHead(bytes.toString('latin1', 0, end.headers));
      if (head.status === 101) throw new MalformedResponseError('changes the protocol');
      if (head.status >= 200) return this.#begin(head, bytes.subarray(end.body));
      // an informational response: the next one follows
      bytes.copyWithin(0, end.body);
      this.#headLength -= end.body;
      from = 0;
    }
  }

  /** @param rest the first bytes of the body, which arrived with the head */
  #begin(head: ResponseHead, rest: Buffer): boolean {
    this.#expect('head');
    const body = this.#handler?.begin(head);
    this.#handler = undefined;
    // the handler has possibly called destroy()
    if (body === undefined || this.#isClosed()) {
      this.#close(undefined);
      return false;
    }
    this.#state = 'body';
    this.#body = body;
    this.#left = typeof head.body === 'number' ? head.body : Number.POSITIVE_INFINITY;
    this.#keepAlive = head.keepAlive && head.body !== 'until-close';
    if (rest.length > this.#left) throw new MalformedResponseError('is longer than its headers say');
    if (head.body === 'chunked') {
      this.#chunks = new ChunkedDecoder();
      return this.#readChunks(this.#chunks, rest);
    }
    return this.#left === 0 ? this.#ended() : this.#copy(rest);
  }

  #readChunks(chunks: ChunkedDecoder, bytes: Buffer): boolean {
    let goesOn = true;
    chunks.write(bytes, (data) => {
      goesOn = this.#copy(data);
    });
    return chunks.done && this.#state === 'body' ? this.#ended() : goesOn;
  }

  /** Copies bytes of the body from own memory to the user's. */
  #copy(data: Buffer): boolean {
    let goesOn = true;
    for (let at = 0; at < data.length && this.#body !== undefined; ) {
      const copied = data.copy(this.#body.buffer(), 0, at);
      at += copied;
      goesOn = this.#readBody(copied);
    }
    return goesOn;
  }

  #readBody(count: number): boolean {
    this.#left -= count;
    const goesOn = this.#body?.filled(count) ?? false;
    return this.#left === 0 && this.#state === 'body' ? this.#ended() : goesOn;
  }

  #ended(): boolean {
    this.#expect('body');
    const body = this.#body;
    this.#body = undefined;
    this.#chunks = undefined;
    this.#state = 'idle';
    if (!this.#keepAlive) this.#close(undefined);
    body?.end();
    return true;
  }

  /** @param cause for the handler of a running request; `undefined` not to call it */
  #close(cause: Error | undefined): void {
    const handler = this.#body ?? this.#handler;
    this.#body = undefined;
    this.#chunks = undefined;
    this.#handler = undefined;
    this.#state = 'closed';
    this.#socket.destroy();
    if (cause !== undefined) handler?.fail(cause);
  }

  /** The socket is closed, by the server or by this connection. */
  #onEnd(): void {
    const isEndOfBody = this.#left === Number.POSITIVE_INFINITY && this.#chunks === undefined;
    if (this.#state === 'body' && isEndOfBody) this.#ended();
    else this.#close(new Error('the connection was closed early'));
    this.#onClose();
  }

  #isClosed(): boolean {
    return this.#state === 'closed';
  }

  #expect(state: 'idle' | 'head' | 'body'): void {
    if (this.#state !== state) throw new Error(`the HTTP connection is ${this.#state}, not ${state}`);
  }
}

/** Finds the empty line between headers and body. Lines that end with LF only are found, so that the parser refuses them. */
function endOfHead(bytes: Buffer, from: number): { readonly headers: number; readonly body: number } | undefined {
  for (let at = bytes.indexOf(0x0a, from); at >= 0; at = bytes.indexOf(0x0a, at + 1)) {
    const empty = bytes[at + 1] === 0x0d ? at + 2 : at + 1;
    if (bytes[empty] === 0x0a) return { headers: bytes[at - 1] === 0x0d ? at - 1 : at, body: empty + 1 };
  }
  return undefined;
}

/** An error with a code, like those of Node's sockets. */
function timeoutError(sentence: string): NodeJS.ErrnoException {
  return Object.assign(new Error(sentence), { code: 'CONNECT_TIMEOUT' });
}
