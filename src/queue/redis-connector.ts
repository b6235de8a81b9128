import { createConnection, Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { AbstractConnector, type RedisOptions } from 'ioredis';
import { displayServer, type RedisAddress, type RedisServer } from '../redis-address.ts';
import { DiagnosedError } from './redis-diagnosis.ts';
import type { RedisTls } from './redis-files.ts';

/** Where a connector connects to. */
export interface ConnectorTarget {
  readonly kind: RedisAddress['kind'];
  readonly family: RedisAddress['family'];
  /** The options of TLS; `undefined` without TLS. */
  readonly tls: () => RedisTls | undefined;
  /** The server that has the queue now. */
  readonly primary: () => Promise<RedisServer>;
}

/** Time limit in milliseconds for closing a connection; the same value as in ioredis. */
const DISCONNECT_TIMEOUT = 2000;

type Emit = (type: string, error: Error) => void;

/**
 * The class of connectors to one target. ioredis makes a connector for each connection, also for duplicates, and calls `connect`
 * for each attempt.
 *
 * A connector handles every error of a stream. The connector of ioredis handles only the first one, so a second error would crash
 * the process. A TLS stream emits two errors if the client refuses the certificate and the server answers with an alert.
 */
export function connectorTo({ kind, family, tls, primary }: ConnectorTarget): NonNullable<RedisOptions['Connector']> {
  return class PrimaryConnector extends AbstractConnector {
    #server = '';
    #emit: Emit = () => {};
    /** The stream that is being closed. */
    #closing: AbstractConnector['stream'] | undefined;

    constructor() {
      super(DISCONNECT_TIMEOUT);
    }

    override async connect(emit: Emit): Promise<AbstractConnector['stream']> {
      this.connecting = true;
      this.#closing = undefined;
      this.#emit = emit;
      this.stream = await this.#open().catch((error: Error) => {
        this.firstError = error;
        // ioredis reports firstError for such a stream, and tries again as after any lost connection
        return new Socket().destroy();
      });
      return this.stream;
    }

    async #open() {
      const server = await primary();
      if (!this.connecting) throw new Error('Connection is closed.');
      this.#server = displayServer(server);
      const options = tls();
      const address = { ...server, family };
      const stream = options === undefined ? createConnection(address) : connectTls({ ...address, ...options });
      stream.on('error', (error: Error) => {
        this.firstError = error;
      });
      return stream;
    }

    /** ioredis calls it for each answer that `reconnectOnError` names, and each call would add a listener to the stream. */
    override disconnect(): void {
      const stream: AbstractConnector['stream'] | undefined = this.stream; // absent before the first connection
      if (stream !== undefined && stream === this.#closing) return;
      this.#closing = stream;
      super.disconnect();
    }

    /** ioredis calls it with the answer of INFO when the connection is open. If it returns false, ioredis connects again. */
    override check({ role, redis_mode: mode }: { readonly role?: string; readonly redis_mode?: string }): boolean {
      if (mode === 'sentinel') {
        const advice = `write redis+sentinel://${this.#server}/NAME, with the name of the primary`;
        this.#emit('error', new DiagnosedError({ kind: 'misconfigured', sentence: `is a sentinel: ${advice}` }));
        return false;
      }
      if (kind === 'single' || role !== 'slave') return true;
      const names = kind === 'sentinel' ? 'which a sentinel still names' : 'which a node still names';
      this.#emit(
        'error',
        new DiagnosedError({
          kind: 'refusing',
          sentence: `has no primary now, because ${this.#server}, ${names}, is a replica: wait until the failover is complete`,
        }),
      );
      return false;
    }
  };
}
