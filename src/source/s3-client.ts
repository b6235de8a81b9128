import { GetObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { getSignedUrl, S3RequestPresigner } from '@aws-sdk/s3-request-presigner';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import { trustedCas } from '../http/trusted-cas.ts';
import type { S3Connection } from './source-spec.ts';

/**
 * Node's HTTP clients, fetched when they are first used. `import` reads everything that a module exports, and what node:http
 * exports lazily is Node's whole `fetch`: importing it takes a thread 40 ms and 13 MB, this a tenth of that (measured).
 */
const nodeHttp = (): typeof import('node:http') => process.getBuiltinModule('node:http');
const nodeHttps = (): typeof import('node:https') => process.getBuiltinModule('node:https');

/**
 * A client for `connection`, as readers of this project want it; who sends small or repeatable requests can have more
 * tries and a socket timeout (milliseconds). The caller destroys it.
 */
export function s3Client(
  connection: S3Connection,
  { maxAttempts = 1, socketTimeout = 0 }: { readonly maxAttempts?: number; readonly socketTimeout?: number } = {},
): S3Client {
  const { caBundle } = connection;
  const agent = { keepAlive: true, ...(caBundle === undefined ? {} : { ca: trustedCas(caBundle) }) };
  const { Agent: HttpAgent } = nodeHttp();
  const { Agent: HttpsAgent } = nodeHttps();
  return new S3Client({
    region: connection.region,
    forcePathStyle: connection.forcePathStyle,
    ...(connection.endpoint === undefined ? {} : { endpoint: connection.endpoint }),
    // a copy: the SDK writes into it where they come from
    ...(connection.credentials === undefined ? {} : { credentials: { ...connection.credentials } }),
    // one try a request: a download continues where it broke, which the SDK's own tries don't
    maxAttempts,
    // digests prove the bytes; the SDK's CRC would read every byte again, and not all servers know its trailers
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: new NodeHttpHandler({
      connectionTimeout: connection.connectTimeout,
      // the SDK counts the time that the consumer is busy as silence; responseBody does not
      socketTimeout,
      httpAgent: new HttpAgent(agent),
      httpsAgent: new HttpsAgent(agent),
    }),
  });
}

/** How a URL is signed. */
export interface Signing {
  /** Seconds that it holds. */
  readonly seconds: number;
  /** Milliseconds that the server's clock is ahead of this machine's. */
  readonly clockOffset?: number;
  /** Signed instead of the object's own URL: where the server redirects to. */
  readonly location?: URL | undefined;
}

/** A URL that lets its holder read one object. It needs no request. */
export function signedUrl(client: S3Client, bucket: string, key: string, signing: Signing): Promise<string> {
  const { seconds, clockOffset = 0, location } = signing;
  const options = { expiresIn: seconds, signingDate: new Date(Date.now() + clockOffset) };
  if (location === undefined) return getSignedUrl(client, new GetObjectCommand({ Bucket: bucket, Key: key }), options);
  return signedLocation(client, location, options);
}

async function signedLocation(
  client: S3Client,
  location: URL,
  options: { readonly expiresIn: number; readonly signingDate: Date },
): Promise<string> {
  const { protocol, hostname, port, pathname, host } = location;
  const { query = {} } = await new S3RequestPresigner({ ...client.config }).presign(
    {
      method: 'GET',
      protocol,
      hostname,
      ...(port === '' ? {} : { port: Number(port) }),
      path: pathname,
      query: {},
      headers: { host },
    },
    options,
  );
  const url = new URL(pathname, location);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, String(value));
  return url.href;
}

/** Has credentials looked up again that were looked up before. Those of settings stay as they are. */
export async function refreshCredentials(client: S3Client): Promise<void> {
  await client.config.credentials({ forceRefresh: true });
}
