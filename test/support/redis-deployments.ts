import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { freePort } from '../../dev/local-programs.ts';
import { findRedis, type LocalRedis, startRedis } from '../../dev/redis-server.ts';
import { endChild, startChild } from './child.ts';
import { eventually } from './eventually.ts';
import { scratch } from './scratch.ts';

/** Redis as people deploy it: a primary with replicas and sentinels, or a cluster. Each server is a process of its own. */
export interface Deployment extends AsyncDisposable {
  /** For REDIS_URL. */
  readonly url: string;
  readonly servers: readonly LocalRedis[];
  /** The server that has the keys of the prefix `{bull}` now. Servers that do not answer are passed over. */
  primary(): Promise<LocalRedis>;
  /** A client without a queue in the way, for what an administrator does. */
  admin(server: LocalRedis): Redis;
}

export interface SentinelDeployment extends Deployment {
  readonly sentinels: readonly Sentinel[];
}

interface Sentinel {
  readonly port: number;
  kill(): Promise<void>;
}

export interface DeploymentOptions {
  readonly flags?: readonly string[];
  readonly replicas?: number;
  readonly sentinelLines?: readonly string[];
  readonly password?: string;
  /** The path of the servers' program. Default: the first one that is on the PATH. */
  readonly program?: string;
}

export const PRIMARY_NAME = 'my-primary';
/** The user of replicas and sentinels. */
export const PEER = 'peer';
/** Milliseconds after which a server counts as lost. */
const LOST = 1000;

/**
 * The valkey-server that CONFORMANCE_VALKEY names; `undefined` if it is unset, or `none` because .ci/run has found no later suite.
 * @throws Error if it does not run
 */
export function valkeyProgram(): string | undefined {
  const { CONFORMANCE_VALKEY: program = '' } = process.env;
  if (program === '' || program === 'none') return undefined;
  const { status } = spawnSync(program, ['--version'], { stdio: 'ignore' });
  if (status !== 0) throw new Error(`CONFORMANCE_VALKEY=${program} does not run`);
  return program;
}

/** One server. */
export async function startServer({ flags = [], password, program }: DeploymentOptions = {}): Promise<Deployment> {
  await using opened = new AsyncDisposableStack();
  const auth = password === undefined ? [] : ['--requirepass', password];
  const server = await startRedis({ flags: [...auth, ...flags], ...(program === undefined ? {} : { program }) });
  opened.defer(() => server.stop());
  const admin = admins(opened, password);
  const closing = opened.move();
  return {
    url: server.url,
    servers: [server],
    admin,
    primary: async () => server,
    [Symbol.asyncDispose]: () => closing.disposeAsync(),
  };
}

/**
 * A primary, its replicas, and three sentinels. Each server has a configuration file, into which sentinels write what it becomes,
 * so that a server that starts again is what it was. With a password, replicas and sentinels have a user of their own.
 */
export async function startSentinels(options: DeploymentOptions = {}): Promise<SentinelDeployment> {
  const { flags = [], replicas = 2, sentinelLines = [], password, program = findRedis() } = options;
  await using opened = new AsyncDisposableStack();
  const folder = scratch();
  opened.defer(() => folder[Symbol.dispose]());
  const auth =
    password === undefined
      ? []
      : [
          `requirepass ${password}`,
          `user ${PEER} on >${password} ~* &* +@all`,
          `masteruser ${PEER}`,
          `masterauth ${password}`,
        ];
  const servers: LocalRedis[] = [];
  const start = async (role: readonly string[]) => {
    const configuration = join(folder.path, `server-${servers.length}.conf`);
    writeFileSync(configuration, `${[...auth, 'repl-diskless-sync-delay 0', ...role].join('\n')}\n`);
    const server = await startRedis({ flags, configuration, ...(program === undefined ? {} : { program }) });
    opened.defer(() => server.stop());
    servers.push(server);
    return server;
  };
  const first = await start([]);
  for (let i = 0; i < replicas; i++) await start([`replicaof 127.0.0.1 ${first.port}`]);
  const admin = admins(opened, password);
  await eventually('the replicas are connected', async () => {
    const info = await admin(first).info('replication');
    return info.match(/state=online/g)?.length === replicas || replicas === 0;
  });
  const sentinels: Sentinel[] = [];
  for (let i = 0; i < 3; i++) {
    const port = await freePort();
    const file = join(folder.path, `sentinel-${i}.conf`);
    const lines = [
      `port ${port}`,
      'bind 127.0.0.1',
      `dir ${folder.path}`,
      `sentinel monitor ${PRIMARY_NAME} 127.0.0.1 ${first.port} 2`,
      `sentinel down-after-milliseconds ${PRIMARY_NAME} ${LOST}`,
      `sentinel failover-timeout ${PRIMARY_NAME} 5000`,
      ...(password === undefined
        ? []
        : [`sentinel auth-user ${PRIMARY_NAME} ${PEER}`, `sentinel auth-pass ${PRIMARY_NAME} ${password}`]),
      ...sentinelLines,
    ];
    writeFileSync(file, `${lines.join('\n')}\n`);
    const child = startChild(program ?? 'redis-server', [file, '--sentinel'], { stdio: 'ignore' });
    opened.defer(() => endChild(child));
    sentinels.push({ port, kill: () => endChild(child) });
  }
  const plain = sentinelLines.some((line) => line.startsWith('requirepass')) ? undefined : sentinels;
  for (const { port } of plain ?? []) {
    const sentinel = new Redis({ port, enableReadyCheck: false });
    sentinel.on('error', () => {});
    await eventually('the sentinel knows the others', async () => {
      const fields = await sentinel.call('SENTINEL', 'MASTER', PRIMARY_NAME).catch(() => []);
      const list = Array.isArray(fields) ? fields : Object.entries(fields as object).flat();
      const field = (name: string) => Number(list[list.indexOf(name) + 1]);
      return field('num-other-sentinels') === 2 && field('num-slaves') === replicas;
    });
    sentinel.disconnect();
  }
  const closing = opened.move();
  return {
    url: `redis+sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')}/${PRIMARY_NAME}`,
    servers,
    sentinels,
    admin,
    primary: () => primaryOf(servers, password),
    [Symbol.asyncDispose]: () => closing.disposeAsync(),
  };
}

/** Three primaries, each with a replica. The prefix `{bull}` belongs to one of them. */
export async function startCluster({ flags = [], password, program }: DeploymentOptions = {}): Promise<Deployment> {
  await using opened = new AsyncDisposableStack();
  const auth = password === undefined ? [] : ['--requirepass', password, '--masterauth', password];
  const cluster = [
    '--cluster-enabled',
    'yes',
    '--cluster-node-timeout',
    String(LOST),
    '--repl-diskless-sync-delay',
    '0',
  ];
  const servers: LocalRedis[] = [];
  for (let i = 0; i < 6; i++) {
    const server = await startRedis({
      flags: [...auth, ...cluster, ...flags],
      ...(program === undefined ? {} : { program }),
    });
    opened.defer(() => server.stop());
    servers.push(server);
  }
  const admin = admins(opened, password);
  const [first, ...others] = servers.map(admin);
  if (first === undefined) throw new Error('no server was started');
  for (const [index, server] of servers.entries()) {
    if (index > 0) {
      const bus = await busPort(admin(server));
      await first.call('CLUSTER', 'MEET', '127.0.0.1', String(server.port), bus);
    }
  }
  const known = async (redis: Redis) => (await redis.cluster('INFO')).includes('cluster_known_nodes:6');
  await eventually('the nodes know each other', async () =>
    (await Promise.all([first, ...others].map(known))).every(Boolean),
  );
  const share = Math.ceil(16384 / 3);
  const clients = [first, ...others];
  for (let i = 0; i < 3; i++) {
    await clients[i]?.call('CLUSTER', 'ADDSLOTSRANGE', String(i * share), String(Math.min(16383, (i + 1) * share - 1)));
  }
  for (let i = 0; i < 3; i++) {
    const id = await clients[i]?.call('CLUSTER', 'MYID');
    await eventually('the node is known to its replica', async () =>
      clients[i + 3]?.call('CLUSTER', 'REPLICATE', String(id)).then(
        () => true,
        () => false,
      ),
    );
  }
  const up = async (redis: Redis) => (await redis.cluster('INFO')).includes('cluster_state:ok');
  await eventually('the cluster serves', async () => (await Promise.all(clients.map(up))).every(Boolean));
  await eventually('the replicas are connected', async () => {
    const infos = await Promise.all(clients.slice(0, 3).map((redis) => redis.info('replication')));
    return infos.every((info) => info.includes('state=online'));
  });
  const closing = opened.move();
  return {
    url: `redis+cluster://${servers.map(({ port }) => `127.0.0.1:${port}`).join(',')}`,
    servers,
    admin,
    primary: () => primaryOf(servers, password),
    [Symbol.asyncDispose]: () => closing.disposeAsync(),
  };
}

async function busPort(redis: Redis): Promise<string> {
  const nodes = String(await redis.call('CLUSTER', 'NODES'));
  return /@(\d+)/.exec(nodes)?.[1] ?? '0';
}

function admins(opened: AsyncDisposableStack, password: string | undefined) {
  const clients = new Map<number, Redis>();
  opened.defer(() => {
    for (const client of clients.values()) client.disconnect();
  });
  return ({ port }: LocalRedis): Redis => {
    let client = clients.get(port);
    if (client === undefined) {
      // without waiting for a server that was killed
      client = new Redis({
        port,
        ...(password === undefined ? {} : { password }),
        maxRetriesPerRequest: 1,
        commandTimeout: 5000,
      });
      client.on('error', () => {});
      clients.set(port, client);
    }
    return client;
  };
}

/** The server that is a primary and serves the key `{bull}`; a server that is down is passed over. */
async function primaryOf(servers: readonly LocalRedis[], password: string | undefined): Promise<LocalRedis> {
  for (const server of servers) {
    const redis = new Redis({
      port: server.port,
      ...(password === undefined ? {} : { password }),
      retryStrategy: () => null,
      commandTimeout: LOST,
    });
    redis.on('error', () => {});
    const info = await Promise.all([redis.info('replication'), redis.get('{bull}')]).then(
      ([text]) => text,
      () => '',
    );
    redis.disconnect();
    if (/^role:master/m.test(info)) return server;
  }
  throw new Error('no server is a primary with the keys of {bull}');
}
