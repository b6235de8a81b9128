import {
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
} from '@grpc/grpc-js';
import type { ServiceDefinition } from '@grpc/proto-loader';
import { type GrpcCode, statusOf } from './errors.ts';
import { type ListeningSocket, listenOn } from './socket.ts';

/** The frame of a gRPC server on a Unix socket. `src/proxy` serves containerd's snapshots with it. */

/** A request as a server gets it: what the client has left out has its zero value. */
export type Received<Request> = { readonly [Field in keyof Request]-?: Exclude<Request[Field], undefined> };

/** A service's methods as functions. What they throw ends the call with a status, see `ServeOptions.failure`. */
export type Handlers<Service> = {
  readonly [Method in keyof Service]: Service[Method] extends (request: infer Request) => AsyncIterable<infer Response>
    ? (request: Received<Request>) => AsyncIterable<Response>
    : Service[Method] extends (request: infer Request) => infer Response
      ? (request: Received<Request>) => Promise<Response>
      : never;
};

/** How a call ends that has thrown. */
export interface Failure {
  readonly code: GrpcCode;
  readonly details: string;
}

export interface ServeOptions<Service> {
  /** Path of the Unix socket. */
  readonly socket: string;
  readonly definition: ServiceDefinition;
  readonly handlers: Handlers<Service>;
  /** Explains what a handler has thrown. @param method such as `Prepare` */
  readonly failure: (thrown: unknown, method: string) => Failure;
  readonly onCall?: CallObserver | undefined;
}

/** Gets the end of each call. @param method such as `Prepare` */
export type CallObserver = (method: string, code: GrpcCode, milliseconds: number) => void;

export interface RunningServer {
  readonly socket: string;
  /** Takes no more calls, and waits for those that run, for `limit` milliseconds at most. Then removes the socket. */
  close(limit: number): Promise<void>;
}

/** The limit of containerd for a message, in bytes. */
const MAX_MESSAGE = 16 << 20;

/** Serves one service on a socket of mode 0600. @throws SocketError if nobody can listen there */
export async function serve<Service>(options: ServeOptions<Service>): Promise<RunningServer> {
  const { definition, failure, onCall } = options;
  const server = new Server({
    'grpc.max_receive_message_length': MAX_MESSAGE,
    'grpc.max_send_message_length': MAX_MESSAGE,
  });
  // `as`: the interface of a service says what its definition has
  const handlers = options.handlers as Readonly<Record<string, UnaryHandler & StreamHandler>>;
  const implementation = Object.entries(definition).map(([name, { responseStream }]) => {
    const handler = handlers[name];
    if (handler === undefined) return [name, unimplemented];
    const end = (began: number, code: GrpcCode) => onCall?.(name, code, performance.now() - began);
    return [name, responseStream ? stream(handler, name, failure, end) : unary(handler, name, failure, end)];
  });
  server.addService(definition, Object.fromEntries(implementation));
  const socket = await listenOn(options.socket, (path) => bind(server, path));
  return { socket: options.socket, close: (limit) => shutDown(server, socket, limit) };
}

type UnaryHandler = (request: object) => Promise<object>;
type StreamHandler = (request: object) => AsyncIterable<object>;
type Explain = ServeOptions<unknown>['failure'];
/** Called when a call ends. @param began by `performance.now()` */
type End = (began: number, code: GrpcCode) => void;

function unary(handler: UnaryHandler, name: string, failure: Explain, end: End) {
  return (call: ServerUnaryCall<object, object>, answer: sendUnaryData<object>): void => {
    const began = performance.now();
    handler(call.request).then(
      (response) => {
        answer(null, response);
        end(began, 'OK');
      },
      (error: unknown) => {
        const failed = failure(error, name);
        answer(statusObject(failed));
        end(began, failed.code);
      },
    );
  };
}

function stream(handler: StreamHandler, name: string, failure: Explain, end: End) {
  return async (call: ServerWritableStream<object, object>): Promise<void> => {
    const began = performance.now();
    try {
      for await (const response of handler(call.request)) {
        if (call.cancelled) {
          end(began, 'CANCELLED');
          return;
        }
        if (!call.write(response)) await drained(call);
      }
      call.end();
      end(began, 'OK');
    } catch (error) {
      const failed = failure(error, name);
      call.emit('error', statusObject(failed));
      end(began, failed.code);
    }
  };
}

/** Waits until the client has taken what was written, or has gone. */
function drained(call: ServerWritableStream<object, object>): Promise<void> {
  return new Promise((resolve) => {
    call.once('drain', resolve);
    call.once('cancelled', resolve);
  });
}

function unimplemented(_call: unknown, answer: sendUnaryData<object>): void {
  answer({ code: statusOf('UNIMPLEMENTED'), details: 'this server does not have the method' });
}

function statusObject({ code, details }: Failure): Error & { readonly code: number; readonly details: string } {
  return Object.assign(new Error(details), { code: statusOf(code), details });
}

function bind(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) => {
      if (error === null) resolve();
      else reject(error);
    });
  });
}

async function shutDown(server: Server, socket: ListeningSocket, limit: number): Promise<void> {
  const { promise: ended, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, limit);
  server.tryShutdown(() => resolve());
  await ended;
  clearTimeout(timer);
  server.forceShutdown();
  socket.release();
}
