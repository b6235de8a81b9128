import { createServer, type RequestListener, request as send } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { type AddressInfo, connect, type Socket } from 'node:net';

/** An HTTP proxy for tests, which counts what goes through it and can refuse. */
export interface TestProxy {
  /** `127.0.0.1:PORT`. */
  readonly address: string;
  /** The targets of CONNECT, and the URLs of requests without a tunnel. */
  readonly seen: string[];
  close(): void;
}

export interface ProxyRules {
  /** The only accepted `user:password`. Default: none is asked for. */
  readonly password?: string;
  /** A status with which every request is answered; `silent`: no answer. */
  readonly refuse?: string | 'silent';
  /** A server that gets every request without a tunnel, whatever its host name. */
  readonly target?: string;
  /** For a proxy that is reached with TLS. */
  readonly tls?: { readonly key: Buffer; readonly cert: Buffer };
}

export async function startProxy({ password, refuse, target: only, tls }: ProxyRules = {}): Promise<TestProxy> {
  const seen: string[] = [];
  const open = new Set<Socket>();
  const refusal = (authorization: string | undefined): string | undefined => {
    const wanted = password === undefined ? undefined : `Basic ${Buffer.from(password).toString('base64')}`;
    return authorization === wanted || wanted === undefined ? refuse : '407 Proxy Authentication Required';
  };
  const forward: RequestListener = (incoming, answer) => {
    seen.push(String(incoming.url));
    const refused = refusal(incoming.headers['proxy-authorization']);
    if (refused === 'silent') return;
    const [status, ...reason] = (refused ?? '').split(' ');
    if (refused !== undefined) return void answer.writeHead(Number(status), reason.join(' ')).end('<html>no</html>');
    const { method = 'GET', headers } = incoming;
    const { 'proxy-authorization': _, ...rest } = headers;
    const { origin, pathname, search } = new URL(String(incoming.url));
    const outgoing = send(`${only ?? origin}${pathname}${search}`, { method, headers: rest }, (response) => {
      response.pipe(answer.writeHead(response.statusCode ?? 502, response.headers));
    });
    outgoing.on('error', () => {
      // a server can break the rules of HTTP after its answer
      if (!answer.headersSent) answer.writeHead(502, 'Bad Gateway').end('<html>no</html>');
    });
    incoming.pipe(outgoing);
  };
  const server = tls === undefined ? createServer(forward) : createTlsServer(tls, forward);
  server.on('connect', (request, client: Socket) => {
    seen.push(String(request.url));
    client.on('error', () => {});
    const refused = refusal(request.headers['proxy-authorization']);
    if (refused === 'silent') return;
    if (refused !== undefined) return void client.end(`HTTP/1.1 ${refused}\r\n\r\n`);
    const [, host = '', port] = /^(.*):(\d+)$/.exec(String(request.url)) ?? [];
    const target = connect(Number(port), host, () => {
      client.write('HTTP/1.1 200 Connection established\r\n\r\n');
      target.pipe(client).pipe(target);
    });
    open.add(target);
    target.on('error', () => client.end('HTTP/1.1 502 Bad Gateway\r\n\r\n'));
  });
  server.on('connection', (socket: Socket) => open.add(socket));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo; // a TCP server's address is never a string
  return {
    address: `127.0.0.1:${port}`,
    seen,
    close: () => {
      server.close();
      for (const socket of open) socket.destroy();
    },
  };
}
