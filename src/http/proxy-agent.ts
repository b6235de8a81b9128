import type { Agent, AgentOptions } from 'node:https';
import type { ConnectionOptions } from 'node:tls';
import { type Proxies, proxyFor } from './proxy.ts';
import { nodeTls } from './trusted-cas.ts';
import { connectToProxy, openTunnel, overdueProxy } from './tunnel.ts';

/**
 * An agent of node:https whose connections go through the proxies of the settings. The clients of the AWS SDK use it. It is not
 * the agent of Node's own proxy support, so that NO_PROXY and the messages are the same for all connections.
 * @param connectTimeout time limit in milliseconds for a tunnel
 */
export function tunnelAgent(options: AgentOptions, proxies: Proxies, connectTimeout: number): Agent {
  // by getBuiltinModule, for the reason in src/source/s3-client.ts
  const agent = new (process.getBuiltinModule('node:https').Agent)(options);
  const direct = agent.createConnection.bind(agent);
  agent.createConnection = (to, callback) => {
    const server = { secure: true, host: to.host ?? 'localhost', port: Number(to.port ?? 443) };
    const isProxy = server.host === proxies.http?.host && server.port === proxies.http.port;
    const proxy = isProxy ? undefined : proxyFor(proxies, server);
    if (proxy === undefined || callback === undefined) return direct(to, callback);
    const outer = connectToProxy(proxy, { ca: options.ca });
    const timer = setTimeout(() => outer.destroy(overdueProxy(proxy, connectTimeout)), connectTimeout);
    openTunnel(outer, proxy, server)
      .then(
        // `as`: an agent passes the options of TLS among those of the request
        () => callback(null, nodeTls().connect({ ...(to as ConnectionOptions), socket: outer })),
        // `as`: the type asks for a stream even with an error
        (cause: Error) => (callback as (error: Error) => void)(cause),
      )
      .finally(() => clearTimeout(timer));
    return undefined;
  };
  return agent;
}
