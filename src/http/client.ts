import { type Body, type Exchange, HttpConnection, type Origin } from './connection.ts';
import type { ResponseHead } from './response-head.ts';

/** Idle connections to one server that are kept for the next request. */
const MOST_IDLE = 32;

/** What is asked for, of whom. */
export interface Question {
  readonly origin: Origin;
  /** The head of the request, with the empty line that ends it. */
  readonly request: string;
  /** Milliseconds. */
  readonly connectTimeout: number;
}

/** A request on its way. */
export interface Transfer {
  /** Reading goes on after `filled` said to stop. */
  resume(): void;
  /** Closes the connection, unless the answer has ended; the exchange hears nothing more. */
  cancel(): void;
}

/** Asks over connections that are kept. One that the server has closed meanwhile is replaced and nobody hears of it. */
export class HttpClient {
  readonly #idle = new Map<string, HttpConnection[]>();

  get(question: Question, exchange: Exchange): Transfer {
    const row = this.#rowOf(question.origin);
    const transfer = new OneTransfer(
      exchange,
      () => this.#connect(question, row),
      (connection) => keep(connection, row),
    );
    transfer.start(row.pop() ?? this.#connect(question, row), question.request);
    return transfer;
  }

  #connect({ origin, connectTimeout }: Question, row: HttpConnection[]): HttpConnection {
    const connection: HttpConnection = new HttpConnection(origin, connectTimeout, () => {
      const at = row.indexOf(connection);
      if (at >= 0) row.splice(at, 1);
    });
    return connection;
  }

  #rowOf({ secure, host, port, caBundle }: Origin): HttpConnection[] {
    const key = `${secure} ${host} ${port} ${caBundle}`;
    const row = this.#idle.get(key) ?? [];
    this.#idle.set(key, row);
    return row;
  }
}

function keep(connection: HttpConnection, row: HttpConnection[]): void {
  if (row.length >= MOST_IDLE) {
    connection.destroy();
    return;
  }
  connection.hold(false);
  row.push(connection);
}

/** Stands between a connection and who asked, for as long as the answer takes. */
class OneTransfer implements Transfer, Exchange, Body {
  readonly #exchange: Exchange;
  readonly #connect: () => HttpConnection;
  readonly #keep: (connection: HttpConnection) => void;
  #connection: HttpConnection | undefined;
  #body: Body | undefined;
  #request = '';

  constructor(exchange: Exchange, connect: () => HttpConnection, keepIdle: (connection: HttpConnection) => void) {
    this.#exchange = exchange;
    this.#connect = connect;
    this.#keep = keepIdle;
  }

  start(connection: HttpConnection, request: string): void {
    this.#connection = connection;
    this.#request = request;
    connection.hold(true);
    connection.ask(request, this);
  }

  resume(): void {
    this.#connection?.resume();
  }

  cancel(): void {
    this.#connection?.destroy();
    this.#connection = undefined;
  }

  begin(head: ResponseHead): Body | undefined {
    this.#body = this.#exchange.begin(head);
    return this.#body === undefined ? undefined : this;
  }

  room(): Buffer {
    return (this.#body as Body).room(); // a connection asks for room only after `begin` has given a body
  }

  filled(count: number): boolean {
    return this.#body?.filled(count) ?? false;
  }

  end(): void {
    const connection = this.#connection;
    this.#connection = undefined;
    if (connection?.idle === true) this.#keep(connection);
    this.#body?.end();
  }

  fail(cause: Error): void {
    // a GET may be repeated, and a server may close an idle connection at any time
    if (this.#connection?.stale === true) {
      this.start(this.#connect(), this.#request);
      return;
    }
    this.#connection = undefined;
    (this.#body ?? this.#exchange).fail(cause);
  }
}
