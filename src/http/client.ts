import { type BodyHandler, HttpConnection, type Origin, type ResponseHandler } from './connection.ts';
import type { ResponseHead } from './response-head.ts';
import { TlsContexts } from './trusted-cas.ts';

/** Maximum number of idle connections per server. */
const IDLE_KEPT = 32;

export interface HttpRequest {
  readonly origin: Origin;
  /** Request line and headers, including the empty line after the headers. */
  readonly head: string;
  /** Milliseconds. */
  readonly connectTimeout: number;
}

/** A running request. */
export interface Transfer {
  /** Continues a body that was paused. */
  resume(): void;
  /** Closes the connection, unless the response is complete. After that, no handler is called. */
  cancel(): void;
}

/**
 * Sends GET requests over a pool of connections. If the server has closed an idle connection, the request is sent again over a
 * new one. ObjectDownloader (src/source) owns a client for each thread.
 */
export class HttpClient {
  readonly #idle = new Map<string, HttpConnection[]>();
  readonly #tlsContexts = new TlsContexts();
  #closed = false;

  /** @throws UnpackError SOURCE_DENIED for a CA file that cannot be used */
  get(request: HttpRequest, handler: ResponseHandler): Transfer {
    if (this.#closed) throw new Error('the HTTP client is closed');
    const pool = this.#poolOf(request.origin);
    const transfer = new PooledTransfer(handler, {
      connect: () => this.#connect(request, pool),
      keep: (connection) => this.#keep(connection, pool),
    });
    transfer.start(idleOf(pool) ?? this.#connect(request, pool), request.head);
    return transfer;
  }

  /** Closes idle connections now, and busy connections when their responses are complete. */
  close(): void {
    this.#closed = true;
    for (const pool of this.#idle.values()) for (const connection of pool.splice(0)) connection.destroy();
  }

  #connect({ origin, connectTimeout }: HttpRequest, pool: HttpConnection[]): HttpConnection {
    const { secure, caBundle, proxy } = origin;
    const usesTls = secure || proxy?.secure === true;
    const secureContext = usesTls && caBundle !== undefined ? this.#tlsContexts.get(caBundle) : undefined;
    const onClose = () => {
      const at = pool.indexOf(connection);
      if (at >= 0) pool.splice(at, 1);
    };
    const connection: HttpConnection = new HttpConnection(origin, { connectTimeout, secureContext, onClose });
    return connection;
  }

  #keep(connection: HttpConnection, pool: HttpConnection[]): void {
    if (this.#closed || pool.length >= IDLE_KEPT) {
      connection.destroy();
      return;
    }
    connection.keepProcessAlive(false);
    pool.push(connection);
  }

  #poolOf({ secure, host, port, caBundle, proxy }: Origin): HttpConnection[] {
    const key = `${secure} ${host} ${port} ${caBundle?.path} ${proxy === undefined ? '' : JSON.stringify(proxy)}`;
    const pool = this.#idle.get(key) ?? [];
    this.#idle.set(key, pool);
    return pool;
  }
}

/**
 * Takes a connection out of the pool. A closed connection is in the pool until its socket reports that it is closed.
 */
function idleOf(pool: HttpConnection[]): HttpConnection | undefined {
  for (let connection = pool.pop(); connection !== undefined; connection = pool.pop()) {
    if (connection.idle) return connection;
  }
  return undefined;
}

/** One request: passes the events of a pooled connection to the handler until the response is complete. */
class PooledTransfer implements Transfer, ResponseHandler, BodyHandler {
  readonly #handler: ResponseHandler;
  readonly #pool: { connect(): HttpConnection; keep(connection: HttpConnection): void };
  #connection: HttpConnection | undefined;
  #body: BodyHandler | undefined;
  #head = '';

  constructor(handler: ResponseHandler, pool: { connect(): HttpConnection; keep(connection: HttpConnection): void }) {
    this.#handler = handler;
    this.#pool = pool;
  }

  start(connection: HttpConnection, head: string): void {
    this.#connection = connection;
    this.#head = head;
    connection.keepProcessAlive(true);
    connection.send(head, this);
  }

  resume(): void {
    this.#connection?.resume();
  }

  cancel(): void {
    this.#connection?.destroy();
    this.#connection = undefined;
  }

  begin(head: ResponseHead): BodyHandler | undefined {
    this.#body = this.#handler.begin(head);
    return this.#body === undefined ? undefined : this;
  }

  buffer(): Buffer {
    return (this.#body as BodyHandler).buffer(); // a connection calls this only after `begin` has returned a body
  }

  filled(count: number): boolean {
    return this.#body?.filled(count) ?? false;
  }

  end(): void {
    const connection = this.#connection;
    this.#connection = undefined;
    if (connection?.idle === true) this.#pool.keep(connection);
    this.#body?.end();
  }

  fail(cause: Error): void {
    // a GET can be repeated, and a server can close an idle connection at any time
    if (this.#connection?.stale === true) {
      this.start(this.#pool.connect(), this.#head);
      return;
    }
    this.#connection = undefined;
    (this.#body ?? this.#handler).fail(cause);
  }
}
