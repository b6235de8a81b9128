import { GetObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { getSignedUrl, S3RequestPresigner } from '@aws-sdk/s3-request-presigner';
import { NodeHttpHandler, type NodeHttpHandlerOptions } from '@smithy/node-http-handler';
import { authority, type Proxies, proxyFor, serverOf } from '../http/proxy.ts';
import { tunnelAgent } from '../http/proxy-agent.ts';
import { trustedCas } from '../http/trusted-cas.ts';
import { refusedBy, unreached } from '../http/tunnel.ts';
import { credentialChain } from './credentials.ts';
import { OF_CREDENTIALS } from './s3-errors.ts';
import type { S3Connection } from './source-spec.ts';

/**
 * Node's HTTP clients. `import` would read all exports of node:http, and with them load Node's `fetch`, which takes a thread 40 ms
 * and 13 MB; this takes a tenth of it (measured).
 */
const nodeHttp = (): typeof import('node:http') => process.getBuiltinModule('node:http');
const nodeHttps = (): typeof import('node:https') => process.getBuiltinModule('node:https');

/**
 * A client of the AWS SDK. The caller destroys it. The defaults are for signing URLs; uploads set tries and a timeout.
 * @param options.maxAttempts tries of a request
 * @param options.socketTimeout time limit in milliseconds without bytes; 0: no limit
 */
export function s3Client(
  connection: S3Connection,
  { maxAttempts = 1, socketTimeout = 0 }: { readonly maxAttempts?: number; readonly socketTimeout?: number } = {},
): S3Client {
  const { caBundle, proxies, connectTimeout } = connection;
  const agent = { keepAlive: true, ...(caBundle === undefined ? {} : { ca: trustedCas(caBundle) }) };
  const { Agent: HttpAgent } = nodeHttp();
  const { Agent: HttpsAgent } = nodeHttps();
  const httpsAgent = proxies === undefined ? new HttpsAgent(agent) : tunnelAgent(agent, proxies, connectTimeout);
  const client = new S3Client({
    region: connection.region,
    forcePathStyle: connection.forcePathStyle,
    ...(connection.endpoint === undefined ? {} : { endpoint: connection.endpoint }),
    ...(connection.profile === undefined ? {} : { profile: connection.profile }),
    // a copy, because the SDK writes into it
    ...(connection.credentials === undefined ? {} : { credentials: { ...connection.credentials } }),
    credentialDefaultProvider: (options) => credentialChain(options, connection.credentialFiles ?? []),
    // only for uploads and the doctor; ObjectSigner follows a server to another region itself
    followRegionRedirects: true,
    // the SDK would repeat a download from the first byte
    maxAttempts,
    // the digest proves the bytes; the SDK's CRC would read every byte again, and not all servers support its trailers
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    // the clients for credentials (STS, SSO) use it, too; those of metadata services (IMDS, ECS) do not, so they use no proxy
    requestHandler: new ProxiedHandler(proxies, {
      connectionTimeout: connectTimeout,
      // the SDK's timeout includes the time in which the reader of a body is busy
      socketTimeout,
      httpAgent: new HttpAgent(agent),
      httpsAgent,
    }),
  });
  if (connection.requesterPays === true) payRequests(client);
  renewRefusedCredentials(client);
  return client;
}

/** Sends a request again with new credentials, if the server has refused the old ones and the chain has others now. */
function renewRefusedCredentials(client: S3Client): void {
  client.middlewareStack.add(
    (next) => async (args) => {
      const used = await client.config.credentials();
      try {
        return await next(args);
      } catch (error) {
        if (!(error instanceof Error) || !OF_CREDENTIALS.has(error.name)) throw error;
        // the refusal tells more than a chain that has no other credentials
        const now = await refreshCredentials(client)
          .then(() => client.config.credentials())
          .catch(() => used);
        if (isSameKey(now, used)) throw error;
        return await next(args);
      }
    },
    { step: 'initialize', name: 'renewRefusedCredentials' },
  );
}

type Credentials = Awaited<ReturnType<S3Client['config']['credentials']>>;

function isSameKey(one: Credentials, other: Credentials): boolean {
  return (['accessKeyId', 'secretAccessKey', 'sessionToken'] as const).every((field) => one[field] === other[field]);
}

/** Adds the header for buckets whose requester pays to every request. In a signed URL it is a parameter. */
function payRequests(client: S3Client): void {
  client.middlewareStack.add(
    (next) => (args) => {
      // `as`: the type of a request is unknown here; before its signature it has headers
      const { headers } = args.request as { headers: Record<string, string> };
      headers[REQUEST_PAYER] = 'requester';
      return next(args);
    },
    { step: 'build', name: 'requesterPays' },
  );
}

const REQUEST_PAYER = 'x-amz-request-payer';

/** Sends requests without TLS to their proxy, which gets the whole URL. Requests with TLS go through `tunnelAgent`. */
class ProxiedHandler extends NodeHttpHandler {
  readonly #proxies: Proxies | undefined;

  constructor(proxies: Proxies | undefined, options: NodeHttpHandlerOptions) {
    super(options);
    this.#proxies = proxies;
  }

  override handle(...[request, options]: Parameters<NodeHttpHandler['handle']>): ReturnType<NodeHttpHandler['handle']> {
    const { protocol, hostname, port } = request;
    const url = new URL(`${protocol}//${hostname}${port === undefined ? '' : `:${port}`}`);
    const server = serverOf(url);
    const proxy = server.secure ? undefined : proxyFor(this.#proxies, server);
    if (proxy === undefined) return super.handle(request, options);
    const { authorization } = proxy;
    const toProxy: typeof request = Object.assign(Object.create(Object.getPrototypeOf(request)), request, {
      protocol: proxy.secure ? 'https:' : 'http:',
      hostname: proxy.host,
      port: proxy.port,
      // the origin has no default port: a proxy makes the header Host from it, and the signature covers that
      path: `${url.origin}${request.path}`,
      headers: { ...request.headers, ...(authorization === undefined ? {} : { 'proxy-authorization': authorization }) },
    });
    const refusable = super.handle(toProxy, options).then((answer) => {
      const { statusCode: status, reason = '' } = answer.response;
      // S3 does not ask for a password with Basic, but tinyproxy does if the password is wrong
      const asksForPassword = status === 401 && /^basic/i.test(answer.response.headers['www-authenticate'] ?? '');
      if (status === 407 || asksForPassword)
        throw refusedBy(proxy, authority(server.host, server.port), { status, reason });
      return answer;
    });
    return refusable.catch((cause: unknown) => {
      throw cause instanceof Error && 'code' in cause ? unreached(proxy, cause) : cause;
    });
  }
}

export interface UrlOptions {
  /** Lifetime of the URL in seconds. */
  readonly seconds: number;
  /** Milliseconds that the server's clock is ahead of this machine's. */
  readonly clockOffset?: number;
  /** The target of a redirection, which is signed instead of the object's own URL. */
  readonly location?: URL | undefined;
  readonly requesterPays?: boolean | undefined;
}

/** Signs a URL that allows its holder to read one object. Sends no request. */
export function signedUrl(client: S3Client, bucket: string, key: string, options: UrlOptions): Promise<string> {
  const { seconds, clockOffset = 0, location, requesterPays = false } = options;
  const signing = { expiresIn: seconds, signingDate: new Date(Date.now() + clockOffset) };
  if (location === undefined) return getSignedUrl(client, new GetObjectCommand({ Bucket: bucket, Key: key }), signing);
  return signedLocation(client, location, { ...signing, query: requesterPays ? { [REQUEST_PAYER]: 'requester' } : {} });
}

async function signedLocation(
  client: S3Client,
  location: URL,
  {
    query: parameters,
    ...options
  }: { readonly expiresIn: number; readonly signingDate: Date; readonly query: Record<string, string> },
): Promise<string> {
  const { protocol, hostname, port, pathname, host } = location;
  const { query = {} } = await new S3RequestPresigner({ ...client.config }).presign(
    {
      method: 'GET',
      protocol,
      hostname,
      ...(port === '' ? {} : { port: Number(port) }),
      path: pathname,
      query: parameters,
      headers: { host },
    },
    options,
  );
  const url = new URL(pathname, location);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, String(value));
  return url.href;
}

/** Loads the credentials again, if they are not from the settings. Credentials from the settings do not change. */
export async function refreshCredentials(client: S3Client): Promise<void> {
  await client.config.credentials({ forceRefresh: true });
}
