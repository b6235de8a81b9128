import { connect, isIP, type Socket } from 'node:net';
import { ChunkedDecoder } from './chunked.ts';
import { MalformedResponseError, parseResponseHead, type ResponseHead } from './response-head.ts';
import { watchSilence } from './timeouts.ts';
import { contextOf, nodeTls } from './trusted-cas.ts';

/** Bytes that status line and header fields of one answer may have, and of those that are told before it (1xx). */
const HEAD_LIMIT = 64 * 1024;

/** Who asked for something. */
export interface Exchange {
  /**
   * The answer begins.
   * @returns who takes its body; `undefined` where nobody does: the connection is closed then, and nothing more is told
   */
  begin(head: ResponseHead): Body | undefined;
  /** There will be no answer. */
  fail(cause: Error): void;
}

/** Takes the body of an answer: `filled` again and again, then `end`; or `fail` at any time. */
export interface Body {
  /** Where the next bytes go; never empty. May be asked for once more after `filled` said to stop. */
  room(): Buffer;
  /**
   * So many bytes of the last room are filled.
   * @returns whether reading goes on by itself; otherwise `resume` is waited for, and a few more bytes may come all the same
   */
  filled(count: number): boolean;
  /** The body is there whole, and the connection may be used again. */
  end(): void;
  /** Nothing more will come. */
  fail(cause: Error): void;
}

/** Where to connect to. */
export interface Origin {
  readonly secure: boolean;
  readonly host: string;
  readonly port: number;
  /** A file with the certificates (PEM) of further CAs that are believed. */
  readonly caBundle?: string | undefined;
}

/**
 * One connection of a bare HTTP/1.1 client, which only asks (GET) and reads bodies into memory that its user has: Node's
 * own client makes a buffer and several objects for every 64 KiB, which costs six times as much as the reading itself
 * (1.4 instead of 0.3 s of a processor a GB, measured).
 *
 * idle → head (asked; bytes of the answer's head gather) → body → idle; from anywhere → closed.
 */
export class HttpConnection {
  readonly #socket: Socket;
  /** What is not read into the user's memory: the head of an answer, and chunks with what is around them. */
  readonly #own = Buffer.allocUnsafeSlow(HEAD_LIMIT);
  #headLength = 0;
  #chunks: ChunkedDecoder | undefined;
  #state: 'idle' | 'head' | 'body' | 'closed' = 'idle';
  #exchange: Exchange | undefined;
  #body: Body | undefined;
  /** Bytes of the body that are to come; infinite where its end is told otherwise. */
  #left = 0;
  #keepAlive = true;
  #uses = 0;
  /** Bytes of an answer have come since the last request. */
  #answered = false;
  readonly #onClose: () => void;

  /** @param connectTimeout milliseconds until a connection must be there, TLS included */
  constructor(origin: Origin, connectTimeout: number, onClose: () => void) {
    this.#onClose = onClose;
    const { secure, host, port, caBundle } = origin;
    const options = {
      host,
      port,
      noDelay: true,
      keepAlive: true,
      onread: { buffer: () => this.#room(), callback: (count: number) => this.#read(count) },
    };
    const secured = () => ({
      ALPNProtocols: ['http/1.1'],
      ...(isIP(host) === 0 ? { servername: host } : {}),
      ...(caBundle === undefined ? {} : { secureContext: contextOf(caBundle) }),
    });
    this.#socket = secure ? nodeTls().connect({ ...options, ...secured() }) : connect(options);
    const connecting = watchSilence(connectTimeout, () => {
      this.#close(timeoutError(`no connection came about within ${connectTimeout / 1000} s`));
    });
    connecting.arm();
    this.#socket.once(secure ? 'secureConnect' : 'connect', () => connecting.disarm());
    // stays for the socket's whole life: an error after its end must not end the process
    this.#socket.on('error', (cause) => this.#close(cause));
    this.#socket.once('close', () => {
      connecting.disarm();
      this.#onEnd();
    });
  }

  /** Whether a request that fails now may have met a connection that the server had given up meanwhile. */
  get stale(): boolean {
    return this.#uses > 1 && !this.#answered;
  }

  get idle(): boolean {
    return this.#state === 'idle';
  }

  /** Asks; `request` is the request's head with the empty line. Only an idle connection can. */
  ask(request: string, exchange: Exchange): void {
    this.#state = 'head';
    this.#exchange = exchange;
    this.#headLength = 0;
    this.#answered = false;
    this.#uses += 1;
    this.#socket.write(request, 'latin1');
  }

  /** Reading goes on. */
  resume(): void {
    if (this.#state !== 'closed') this.#socket.resume();
  }

  /** Whether this connection keeps the process from ending. */
  hold(held: boolean): void {
    if (held) this.#socket.ref();
    else this.#socket.unref();
  }

  /** Closes at once; nobody hears anything more. */
  destroy(): void {
    this.#close(undefined);
  }

  #room(): Buffer {
    if (this.#state === 'head') return this.#own.subarray(this.#headLength);
    // what comes while idle, or after all is over, is not wanted
    if (this.#body === undefined || this.#chunks !== undefined) return this.#own;
    const room = this.#body.room();
    return room.length > this.#left ? room.subarray(0, this.#left) : room;
  }

  /** @returns whether reading goes on */
  #read(count: number): boolean {
    this.#answered = true;
    try {
      if (this.#state === 'head') return this.#readHead(count);
      if (this.#chunks !== undefined) return this.#readChunks(this.#chunks, this.#own.subarray(0, count));
      if (this.#state === 'body') return this.#readBody(count);
    } catch (error) {
      if (!(error instanceof MalformedResponseError)) throw error;
      this.#close(error);
      return false;
    }
    // bytes that nobody asked for
    this.#close(undefined);
    return false;
  }

  #readHead(count: number): boolean {
    const searched = Math.max(0, this.#headLength - 3);
    this.#headLength += count;
    return this.#parse(searched);
  }

  #parse(searched: number): boolean {
    for (let from = searched; ; from = 0) {
      const bytes = this.#own.subarray(0, this.#headLength);
      const end = endOfHead(bytes, from);
      if (end === undefined) {
        if (this.#headLength === HEAD_LIMIT)
          throw new MalformedResponseError(`has more than ${HEAD_LIMIT} bytes of headers`);
        return true;
      }
      const head = parseResponseHead(bytes.toString('latin1', 0, end.fields));
      if (head.status === 101) throw new MalformedResponseError('changes the protocol');
      if (head.status >= 200) return this.#begin(head, bytes.subarray(end.body));
      // one that announces another
      bytes.copyWithin(0, end.body);
      this.#headLength -= end.body;
    }
  }

  #begin(head: ResponseHead, rest: Buffer): boolean {
    this.#body = this.#exchange?.begin(head);
    this.#exchange = undefined;
    if (this.#body === undefined) {
      this.#close(undefined);
      return false;
    }
    this.#state = 'body';
    this.#headLength = 0;
    this.#left = typeof head.body === 'number' ? head.body : Number.POSITIVE_INFINITY;
    this.#keepAlive = head.keepAlive && head.body !== 'until-close';
    if (rest.length > this.#left) throw new MalformedResponseError('is longer than it says');
    if (head.body === 'chunked') {
      this.#chunks = new ChunkedDecoder();
      return this.#readChunks(this.#chunks, rest);
    }
    return this.#left === 0 ? this.#ended() : this.#copy(rest);
  }

  #readChunks(chunks: ChunkedDecoder, bytes: Buffer): boolean {
    let going = true;
    chunks.write(bytes, (data) => {
      going = this.#copy(data);
    });
    return chunks.done && this.#state === 'body' ? this.#ended() : going;
  }

  /** Bytes of the body that were read elsewhere. */
  #copy(data: Buffer): boolean {
    let going = true;
    for (let at = 0; at < data.length && this.#body !== undefined; ) {
      const copied = data.copy(this.#body.room(), 0, at);
      at += copied;
      going = this.#readBody(copied);
    }
    return going;
  }

  #readBody(count: number): boolean {
    this.#left -= count;
    const going = this.#body?.filled(count) ?? false;
    return this.#left === 0 && this.#state === 'body' ? this.#ended() : going;
  }

  #ended(): boolean {
    const body = this.#body;
    this.#body = undefined;
    this.#chunks = undefined;
    this.#state = 'idle';
    if (!this.#keepAlive) this.#close(undefined);
    body?.end();
    return true;
  }

  #close(cause: Error | undefined): void {
    const listener = this.#body ?? this.#exchange;
    this.#body = undefined;
    this.#chunks = undefined;
    this.#exchange = undefined;
    this.#state = 'closed';
    this.#socket.destroy();
    if (cause !== undefined) listener?.fail(cause);
  }

  /** The server has closed the connection, or it was closed here. */
  #onEnd(): void {
    const endTellsEnd = this.#left === Number.POSITIVE_INFINITY && this.#chunks === undefined;
    if (this.#state === 'body' && endTellsEnd) this.#ended();
    else this.#close(new Error('the connection was closed early'));
    this.#onClose();
  }
}

/** Where the last field ends and the body begins, behind an empty line. Lines that end with LF alone are found here and refused. */
function endOfHead(bytes: Buffer, from: number): { readonly fields: number; readonly body: number } | undefined {
  for (let at = bytes.indexOf(0x0a, from); at >= 0; at = bytes.indexOf(0x0a, at + 1)) {
    const empty = bytes[at + 1] === 0x0d ? at + 2 : at + 1;
    if (bytes[empty] === 0x0a) return { fields: bytes[at - 1] === 0x0d ? at - 1 : at, body: empty + 1 };
  }
  return undefined;
}

/** Shaped as what Node's sockets fail with. */
function timeoutError(sentence: string): NodeJS.ErrnoException {
  return Object.assign(new Error(sentence), { code: 'CONNECT_TIMEOUT' });
}
