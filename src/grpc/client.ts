import type { Socket } from 'node:net';
import { resolve } from 'node:path';
import {
  Client as Channel,
  type ChannelCredentials,
  type ClientReadableStream,
  credentials,
  Metadata,
  type ServiceError,
} from '@grpc/grpc-js';
import type { ServiceDefinition } from '@grpc/proto-loader';
import { loadService } from './definitions.ts';
import { codeOf, GrpcError } from './errors.ts';
import type { Content, Images, Introspection, Leases, Namespaces, Snapshots, Version } from './services.ts';

/**
 * A client of containerd's gRPC services over its Unix socket. It opens the connection with the first call and again after
 * containerd has restarted. Loading this module takes some tens of milliseconds, so commands load it only when a setting
 * names containerd.
 */

export interface CallOptions {
  /** The ID of containerd's lease that what the call makes belongs to. */
  readonly lease?: string;
  /** Milliseconds that the call may take. It then ends with DEADLINE_EXCEEDED. */
  readonly deadline?: number;
}

/** A service's methods as functions. Each throws GrpcError. */
export type Client<Service> = {
  readonly [Method in keyof Service]: Service[Method] extends (request: infer Request) => AsyncIterable<infer Response>
    ? (request: Request, options?: CallOptions) => AsyncIterable<Response>
    : Service[Method] extends (request: infer Request) => infer Response
      ? (request: Request, options?: CallOptions) => Promise<Response>
      : never;
};

export interface ContainerdClient {
  readonly snapshots: Client<Snapshots>;
  readonly leases: Client<Leases>;
  readonly content: Client<Content>;
  readonly images: Client<Images>;
  readonly introspection: Client<Introspection>;
  readonly namespaces: Client<Namespaces>;
  readonly version: Client<Version>;
  /** A client of another service on the same connection. `Service` must be the interface of `definition`. */
  service<Service>(definition: ServiceDefinition): Client<Service>;
  /** Ends the connection. Calls under way end with CANCELLED. */
  close(): void;
}

export interface Address {
  /** Path of the Unix socket. */
  readonly socket: string;
  /** containerd's namespace of all calls. */
  readonly namespace: string;
}

/**
 * Milliseconds of a call without a deadline of its own. A collection of containerd blocks all calls that write: 44 s were
 * seen.
 */
const DEADLINE = 120_000;
/** containerd's own limit for a message, in bytes. */
const MAX_MESSAGE = 16 << 20;
/** Milliseconds between two attempts to connect again. grpc-js waits up to two minutes otherwise. */
const RECONNECTION = { 'grpc.initial_reconnect_backoff_ms': 100, 'grpc.max_reconnect_backoff_ms': 1000 };

/** Does no I/O but reading the .proto files: a socket without containerd is an error of the first call, UNAVAILABLE. */
export function connectContainerd({ socket, namespace }: Address): ContainerdClient {
  // containerd and Node's HTTP/2 servers accept `localhost`, but not the path of a socket
  const sockets = new Set<Socket>();
  const channel = new Channel(`unix:${resolve(socket)}`, insecure(sockets), {
    'grpc.default_authority': 'localhost',
    'grpc.enable_http_proxy': 0,
    'grpc.use_local_subchannel_pool': 1,
    'grpc.max_receive_message_length': MAX_MESSAGE,
    'grpc.max_send_message_length': MAX_MESSAGE,
    ...RECONNECTION,
  });
  // the channel's own `close` lets them run until their deadlines
  const running = new Set<Running>();
  const connection = { channel, namespace, running };
  const service = <Service>(definition: ServiceDefinition) => clientOf<Service>(connection, definition);
  const containerd = <Service>(file: string, name: string) =>
    service<Service>(loadService(`${file}.proto`, `containerd.services.${file}.v1.${name}`));
  return {
    snapshots: containerd<Snapshots>('snapshots', 'Snapshots'),
    leases: containerd<Leases>('leases', 'Leases'),
    content: containerd<Content>('content', 'Content'),
    images: containerd<Images>('images', 'Images'),
    introspection: containerd<Introspection>('introspection', 'Introspection'),
    namespaces: containerd<Namespaces>('namespaces', 'Namespaces'),
    version: containerd<Version>('version', 'Version'),
    service,
    close: () => {
      channel.close();
      for (const call of running) call.cancel();
      // the channel ends a connection that works, but waits for ever for the first bytes of a server that hangs
      for (const each of sockets) if (each.bytesRead === 0) each.destroy();
    },
  };
}

/** Credentials for a Unix socket. @param sockets gets the sockets of the connections that are open */
function insecure(sockets: Set<Socket>): ChannelCredentials {
  const made = credentials.createInsecure();
  const create = made._createSecureConnector.bind(made);
  made._createSecureConnector = (...args) => {
    const connector = create(...args);
    const connect = (socket: Socket) => {
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket));
      return connector.connect(socket);
    };
    return { ...connector, connect };
  };
  return made;
}

type Method = ServiceDefinition[string];
type Running = Pick<ClientReadableStream<object>, 'cancel'>;

interface Connection {
  readonly channel: Channel;
  readonly namespace: string;
  /** The calls under way. */
  readonly running: Set<Running>;
}

type ServerStream = Pick<ClientReadableStream<object>, 'cancel' | typeof Symbol.asyncIterator>;

function clientOf<Service>(connection: Connection, definition: ServiceDefinition): Client<Service> {
  const functions = Object.entries(definition).map(([name, method]) => [name, functionOf(connection, method)]);
  // the interface says what the definition has, but only the definition exists when the program runs
  return Object.fromEntries(functions) as Client<Service>;
}

function functionOf({ channel, namespace, running }: Connection, method: Method) {
  const { path, requestSerialize: write, responseDeserialize: read } = method;
  const properties = (options: CallOptions) => [metadataOf(namespace, options), deadlineOf(options)] as const;
  if (method.requestStream) {
    return (requests: readonly object[], options: CallOptions = {}) =>
      responses(path, running, () => {
        const call = channel.makeBidiStreamRequest(path, write, read, ...properties(options));
        // they are in memory already; the stream sends one after the other
        for (const request of requests) call.write(request);
        call.end();
        return call;
      });
  }
  if (method.responseStream) {
    return (request: object, options: CallOptions = {}) =>
      responses(path, running, () =>
        channel.makeServerStreamRequest(path, write, read, request, ...properties(options)),
      );
  }
  return (request: object, options: CallOptions = {}) =>
    new Promise<object>((fulfil, reject) => {
      const call = channel.makeUnaryRequest(path, write, read, request, ...properties(options), (error, response) => {
        running.delete(call);
        if (error === null && response !== undefined) fulfil(response);
        else reject(grpcError(path, error));
      });
      running.add(call);
    });
}

/** Starts the call with the first response that is asked for, and cancels it if the caller does not want them all. */
async function* responses(path: string, running: Set<Running>, start: () => ServerStream): AsyncGenerator<unknown> {
  const call = start();
  running.add(call);
  try {
    yield* call;
  } catch (error) {
    throw grpcError(path, error);
  } finally {
    running.delete(call);
    call.cancel();
  }
}

function metadataOf(namespace: string, { lease }: CallOptions): Metadata {
  const metadata = new Metadata();
  metadata.set('containerd-namespace', namespace);
  if (lease !== undefined) metadata.set('containerd-lease', lease);
  return metadata;
}

function deadlineOf({ deadline = DEADLINE }: CallOptions): { deadline: number } {
  return { deadline: Date.now() + deadline };
}

/** How grpc-js tells why it cannot connect. */
const UNCONNECTED = /^No connection established\. Last error: (?:Error: )?(.*?)\.? Resolution note:.*$/s;

function grpcError(path: string, thrown: unknown): unknown {
  if (!(thrown instanceof Error && 'details' in thrown)) return thrown;
  const { code, details } = thrown as ServiceError; // the type of all errors of grpc-js that have details
  return new GrpcError(path, codeOf(code), details.replace(UNCONNECTED, '$1'), { cause: thrown });
}
