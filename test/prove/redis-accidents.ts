import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { type LocalRedis, startRedis } from '../../dev/redis-server.ts';
import type { Random } from '../fuzz/random.ts';
import { eventually } from '../support/eventually.ts';
import {
  type Deployment,
  PEER,
  PRIMARY_NAME,
  type SentinelDeployment,
  startCluster,
  startSentinels,
} from '../support/redis-deployments.ts';

/** The deployments of Redis of the proof `failover`, and what happens to them. */
export interface Endangered extends AsyncDisposable {
  readonly kind: 'server' | 'sentinels' | 'cluster';
  /** For REDIS_URL. */
  readonly url: string;
  /** How many replicas the primary with the queue has. */
  readonly replicas: number;
  readonly accidents: readonly Accident[];
  /** Resolves when all servers have their place, and all replicas are connected. */
  whole(): Promise<void>;
  /** Whether a primary without a connected replica refuses writes. */
  requireReplicas(yes: boolean): Promise<void>;
}

/** Something that happens to a deployment, and ends: the servers are then all running again. */
export interface Accident {
  readonly name: string;
  happen(random: Random): Promise<void>;
}

const PASSWORD = 'proof';
/** Milliseconds. The longest time that a server is away; more than a failover needs, and than the time limit of a producer. */
const AWAY = 7000;
/** A killed process loses nothing that it has written into the cache of the kernel, which it does before it answers. */
const PERSISTENT = ['--appendonly', 'yes', '--appendfsync', 'everysec'];
/** Seconds after which a replica that sends nothing is not counted (min-replicas-max-lag). A replica reports once a second. */
const LAG = '3';

export async function startServer(): Promise<Endangered> {
  const server = await startRedis({ flags: PERSISTENT });
  return {
    kind: 'server',
    url: server.url,
    replicas: 0,
    accidents: [killed(async () => server), frozen(async () => server)],
    whole: async () => {},
    requireReplicas: async () => {},
    [Symbol.asyncDispose]: () => server.stop(),
  };
}

export async function startSentinelsToFail(): Promise<Endangered> {
  const deployment = await startSentinels({ password: PASSWORD, flags: PERSISTENT });
  return endangered('sentinels', deployment, deployment.servers.length - 1, [
    ordered(() => failoverOfSentinels(deployment)),
    cutOff(deployment),
  ]);
}

export async function startClusterToFail(): Promise<Endangered> {
  const deployment = await startCluster({ password: PASSWORD, flags: PERSISTENT });
  return endangered('cluster', deployment, 1, [ordered(() => failoverOfCluster(deployment))]);
}

function endangered(
  kind: Endangered['kind'],
  deployment: Deployment,
  replicas: number,
  more: readonly Accident[],
): Endangered {
  const primary = () => eventually('there is a primary', () => deployment.primary().catch(() => undefined));
  return {
    kind,
    url: deployment.url.replace('://', `://:${PASSWORD}@`),
    replicas,
    accidents: [killed(primary), frozen(primary), ...more],
    whole: () =>
      eventually('all servers have their place', async () => {
        const infos = await Promise.all(
          deployment.servers.map((server) =>
            deployment
              .admin(server)
              .info('replication')
              .catch(() => ''),
          ),
        );
        const primaries = infos.filter((info) => /^role:master/m.test(info));
        const online = (info: string) => info.match(/state=online/g)?.length ?? 0;
        return primaries.length === (kind === 'cluster' ? 3 : 1) && primaries.every((info) => online(info) >= replicas);
      }).then(() => {}),
    async requireReplicas(yes) {
      for (const server of deployment.servers) {
        const admin = deployment.admin(server);
        await admin.config('SET', 'min-replicas-to-write', yes ? '1' : '0', 'min-replicas-max-lag', LAG);
      }
    },
    [Symbol.asyncDispose]: () => deployment[Symbol.asyncDispose](),
  };
}

/** It starts again at once, or only after a replica has become the primary. */
function killed(primary: () => Promise<LocalRedis>): Accident {
  return {
    name: 'a primary was killed, and started again',
    async happen(random) {
      const server = await primary();
      await server.kill();
      await sleep(random.below(AWAY));
      await server.restart();
    },
  };
}

/** It comes back with its connections, and believes that it is the primary. */
function frozen(primary: () => Promise<LocalRedis>): Accident {
  return {
    name: 'a primary was frozen, and came back',
    async happen(random) {
      const { pid } = await primary();
      process.kill(pid, 'SIGSTOP');
      await sleep(random.below(AWAY));
      process.kill(pid, 'SIGCONT');
    },
  };
}

function ordered(failover: () => Promise<unknown>): Accident {
  return {
    name: 'a failover was ordered',
    async happen() {
      // refused while the deployment has not yet noticed that all are there
      await eventually('the failover was accepted', () =>
        failover().then(
          () => true,
          () => false,
        ),
      );
    },
  };
}

async function failoverOfSentinels({ sentinels }: SentinelDeployment): Promise<unknown> {
  const redis = new Redis({ port: sentinels[0]?.port ?? 0, enableReadyCheck: false, retryStrategy: () => null });
  redis.on('error', () => {});
  return redis.call('SENTINEL', 'FAILOVER', PRIMARY_NAME).finally(() => redis.disconnect());
}

/** The replica of the primary that has the queue is told to take over. */
async function failoverOfCluster(deployment: Deployment): Promise<unknown> {
  const { servers, admin } = deployment;
  const primary = await deployment.primary();
  const infos = await Promise.all(servers.map((server) => admin(server).info('replication')));
  const index = infos.findIndex((info) => /^role:slave/m.test(info) && info.includes(`master_port:${primary.port}\r`));
  const replica = servers[index];
  if (replica === undefined) throw new Error('the primary has no replica');
  return admin(replica).call('CLUSTER', 'FAILOVER');
}

/** Replicas and sentinels lose the primary, and workers and producers do not: for a while there are two primaries. */
function cutOff(deployment: SentinelDeployment): Accident {
  return {
    name: 'a primary was cut off from replicas and sentinels',
    async happen(random) {
      const admin = deployment.admin(
        await eventually('there is a primary', () => deployment.primary().catch(() => undefined)),
      );
      await admin.call('ACL', 'SETUSER', PEER, 'off');
      await admin.call('CLIENT', 'KILL', 'USER', PEER);
      await sleep(2000 + random.below(AWAY));
      await admin.call('ACL', 'SETUSER', PEER, 'on');
    },
  };
}
