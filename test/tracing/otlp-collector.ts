import { createServer, type RequestListener } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { buffer } from 'node:stream/consumers';
import { listen } from '../../dev/local-programs.ts';

/** A collector of traces that decodes OTLP as protobuf (opentelemetry-proto, trace.proto), and keeps what it got. */
export interface Collector {
  readonly endpoint: string;
  readonly spans: readonly CollectedSpan[];
  /** The requests as they came. */
  readonly bodies: readonly Buffer[];
  close(): Promise<void>;
}

export interface CollectedSpan {
  readonly traceId: string;
  readonly spanId: string;
  /** Empty for a root span. */
  readonly parentId: string;
  readonly name: string;
  readonly kind: number;
  /** Nanoseconds since 1970. */
  readonly start: bigint;
  readonly end: bigint;
  readonly attributes: Readonly<Record<string, unknown>>;
  /** 0 unset, 1 ok, 2 error. */
  readonly status: number;
  readonly message: string;
  /** The attributes of the process. */
  readonly resource: Readonly<Record<string, unknown>>;
}

/** @param tls for a collector that is reached with TLS, as `localhost` */
export async function startCollector(tls?: { readonly cert: Buffer; readonly key: Buffer }): Promise<Collector> {
  const spans: CollectedSpan[] = [];
  const bodies: Buffer[] = [];
  const receive: RequestListener = (request, response) => {
    void buffer(request).then((body) => {
      if (request.url !== '/v1/traces' || request.headers['content-type'] !== 'application/x-protobuf') {
        response.writeHead(404).end();
        return;
      }
      bodies.push(body);
      spans.push(...spansOf(body));
      response.writeHead(200, { 'content-type': 'application/x-protobuf' }).end();
    });
  };
  const server = tls === undefined ? createServer(receive) : createTlsServer(tls, receive);
  const port = await listen(server);
  return {
    endpoint: tls === undefined ? `http://127.0.0.1:${port}` : `https://localhost:${port}`,
    spans,
    bodies,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** ExportTraceServiceRequest → ResourceSpans → ScopeSpans → Span. The numbers are those of the fields. */
function spansOf(request: Buffer): CollectedSpan[] {
  return messages(request, 1).flatMap((resourceSpans) => {
    const resource = attributesOf(messages(resourceSpans, 1)[0] ?? Buffer.alloc(0), 1);
    return messages(resourceSpans, 2).flatMap((scopeSpans) =>
      messages(scopeSpans, 2).map((span): CollectedSpan => {
        const status = messages(span, 15)[0] ?? Buffer.alloc(0);
        return {
          traceId: hex(span, 1),
          spanId: hex(span, 2),
          parentId: hex(span, 4),
          name: text(span, 5),
          kind: Number(number(span, 6)),
          start: number(span, 7),
          end: number(span, 8),
          attributes: attributesOf(span, 9),
          status: Number(number(status, 3)),
          message: text(status, 2),
          resource,
        };
      }),
    );
  });
}

/** KeyValue { key = 1, value = 2 }, AnyValue { string = 1, bool = 2, int = 3, double = 4 } */
function attributesOf(message: Buffer, field: number): Record<string, unknown> {
  return Object.fromEntries(
    messages(message, field).map((pair) => {
      const [value = Buffer.alloc(0)] = messages(pair, 2);
      const [first] = fieldsOf(value);
      return [text(pair, 1), first === undefined ? undefined : plain(first)];
    }),
  );
}

function plain({ number, bytes, integer }: Field): unknown {
  if (number === 1) return bytes.toString();
  if (number === 2) return integer === 1n;
  return number === 4 ? bytes.readDoubleLE() : Number(integer);
}

interface Field {
  readonly number: number;
  readonly bytes: Buffer;
  readonly integer: bigint;
}

/** The fields of a message in the wire format of protobuf. */
function fieldsOf(message: Buffer): Field[] {
  const fields: Field[] = [];
  let place = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = message.readUInt8(place++);
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (place < message.length) {
    const key = Number(varint());
    const kind = key & 7;
    let integer = 0n;
    let length = kind === 1 ? 8 : kind === 5 ? 4 : 0;
    if (kind === 0) integer = varint();
    if (kind === 2) length = Number(varint());
    const bytes = message.subarray(place, place + length);
    place += length;
    if (kind === 1) integer = bytes.readBigUInt64LE();
    fields.push({ number: key >> 3, bytes, integer });
  }
  return fields;
}

function messages(message: Buffer, field: number): Buffer[] {
  return fieldsOf(message)
    .filter(({ number }) => number === field)
    .map(({ bytes }) => bytes);
}

function number(message: Buffer, field: number): bigint {
  return fieldsOf(message).find(({ number }) => number === field)?.integer ?? 0n;
}

function text(message: Buffer, field: number): string {
  return messages(message, field)[0]?.toString() ?? '';
}

function hex(message: Buffer, field: number): string {
  return messages(message, field)[0]?.toString('hex') ?? '';
}
