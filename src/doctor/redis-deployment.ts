import type { QueueSettings, RedisConnection } from '../queue/connection.ts';
import { askEach, type ServerAnswer } from '../queue/redis-primary.ts';
import { displayServer, readRedisUrl } from '../redis-address.ts';
import type { RedisSettings } from '../redis-settings.ts';
import { type Check, fail, ok, warn } from './check.ts';

/** What stands behind the primary: sentinels or nodes, and replicas. `checkRedis` must have passed. */
export async function checkDeployment(
  settings: RedisSettings & Pick<QueueSettings, 'UNPACK_REDIS_REPLICAS'>,
  redis: RedisConnection,
  info: ReadonlyMap<string, string>,
): Promise<Check[]> {
  const address = readRedisUrl(settings.REDIS_URL);
  if (typeof address === 'string') return [];
  const { UNPACK_REDIS_REPLICAS: confirming = 0 } = settings;
  const checks = [await replicas(redis, info, address.kind !== 'single', confirming)];
  if (address.kind === 'sentinel')
    checks.push(sentinels(await askEach(settings, askSentinel(address.primaryName ?? ''))));
  if (address.kind === 'cluster') checks.push(...nodes(await askEach(settings, askNode)));
  return checks;
}

/** Whether another server can take over, and whether writes that none has are refused. */
async function replicas(
  redis: RedisConnection,
  info: ReadonlyMap<string, string>,
  failover: boolean,
  confirming: number,
): Promise<Check> {
  const name = 'Redis replicas';
  const role = info.get('role') === 'master' ? 'a primary' : `a ${info.get('role')}`;
  const online = [...info].filter(
    ([field, value]) => /^slave\d+$/.test(field) && value.includes('state=online'),
  ).length;
  const connected = `${role} with ${online} connected ${online === 1 ? 'replica' : 'replicas'}`;
  if (online < confirming) {
    return fail(
      name,
      `${connected}, but UNPACK_REDIS_REPLICAS=${confirming}: no job can be added`,
      `start the missing replicas, or set UNPACK_REDIS_REPLICAS=${online}`,
    );
  }
  if (online === 0) {
    return failover
      ? warn(name, connected, 'start a replica, or waiting jobs are lost with the primary')
      : ok(name, connected);
  }
  // CONFIG is a dangerous command, which a user of the queue normally lacks
  const required = await redis.config('GET', 'min-replicas-to-write').then(firstValue, () => undefined);
  if (required === undefined) return ok(name, `${connected}; min-replicas-to-write cannot be read by this user`);
  if (required !== '0') return ok(name, `${connected}; min-replicas-to-write ${required}`);
  return warn(
    name,
    `${connected}; min-replicas-to-write 0: a primary that is cut off accepts jobs that are lost in the failover`,
    'set min-replicas-to-write 1 and min-replicas-max-lag 10 on every server',
  );
}

function askSentinel(primary: string) {
  return async (redis: RedisConnection) => {
    const [quorum, fields] = await Promise.all([
      redis.call('SENTINEL', 'CKQUORUM', primary).then(String, (error: Error) => error),
      redis.call('SENTINEL', 'MASTER', primary).then(pairsOf, () => new Map<string, string>()),
    ]);
    return { quorum, fields };
  };
}

function sentinels(answers: readonly ServerAnswer<Awaited<ReturnType<ReturnType<typeof askSentinel>>>>[]): Check {
  const name = 'Sentinels';
  const down = answers.filter(({ answer }) => answer === undefined).map(({ server }) => displayServer(server));
  const noQuorum = answers.flatMap(({ answer }) => (answer?.quorum instanceof Error ? [answer.quorum.message] : []));
  const fields = answers.find(({ answer }) => answer !== undefined)?.answer?.fields;
  const text = (field: string) => fields?.get(field) ?? 'unknown';
  const settings = `quorum ${text('quorum')}, down-after ${text('down-after-milliseconds')} ms, failover-timeout ${text('failover-timeout')} ms`;
  const finding = `${answers.length - down.length} of ${answers.length} answer; ${settings}`;
  const [lost] = noQuorum.filter((message) => message.startsWith('NOQUORUM'));
  const start = 'start the sentinels that are down, or no failover is possible';
  if (lost !== undefined) return fail(name, `${finding}; ${lost}`, start);
  // a sentinel notices only after down-after that others are down
  const all = Number(text('num-other-sentinels')) + 1;
  const needed = Math.max(Number(text('quorum')), Math.floor(all / 2) + 1);
  if (answers.length >= all && answers.length - down.length < needed) {
    return fail(name, `${finding}; down: ${down.join(', ')}; ${needed} are needed for a failover`, start);
  }
  if (down.length > 0) return warn(name, `${finding}; down: ${down.join(', ')}`, 'start them, or correct REDIS_URL');
  if (answers.length < 3) return warn(name, finding, 'name all sentinels in REDIS_URL, and run at least three');
  return ok(name, finding);
}

async function askNode(redis: RedisConnection) {
  const [info, cluster] = await Promise.all([
    redis.info().then(linesOf),
    redis.call('CLUSTER', 'INFO').then((text) => linesOf(String(text))),
  ]);
  return { info, cluster };
}

/** Every node can get the queue, after a failover or when slots move. */
function nodes(answers: readonly ServerAnswer<Awaited<ReturnType<typeof askNode>>>[]): Check[] {
  const name = 'Redis cluster';
  const up = answers.flatMap(({ server, answer }) => (answer === undefined ? [] : [{ server, ...answer }]));
  const down = answers.filter(({ answer }) => answer === undefined).map(({ server }) => displayServer(server));
  const primaries = up.filter(({ info }) => info.get('role') === 'master').length;
  const slots = up[0]?.cluster.get('cluster_slots_assigned') ?? 'unknown';
  const versions = [
    ...new Set(up.map(({ info }) => info.get('valkey_version') ?? info.get('redis_version') ?? 'unknown')),
  ];
  const finding = `${up.length} of ${answers.length} nodes in REDIS_URL answer: ${primaries} primaries, ${up.length - primaries} replicas; ${slots} slots assigned; version ${versions.join(' and ')}`;
  const checks =
    down.length > 0
      ? [warn(name, `${finding}; down: ${down.join(', ')}`, 'start them, or correct REDIS_URL')]
      : [ok(name, finding)];
  const evicting = up.filter(({ info }) => (info.get('maxmemory_policy') ?? 'noeviction') !== 'noeviction');
  if (evicting.length > 0) {
    const list = evicting
      .map(({ server, info }) => `${displayServer(server)} (${info.get('maxmemory_policy')})`)
      .join(', ');
    checks.push(
      fail(
        'Redis cluster memory',
        `these nodes can evict jobs: ${list}`,
        'set maxmemory-policy noeviction on every node',
      ),
    );
  }
  return checks;
}

/** The value in the answer of CONFIG GET: a list of name and value, or an object (RESP3). */
function firstValue(answer: unknown): string | undefined {
  return [...pairsOf(answer).values()][0];
}

function pairsOf(answer: unknown): Map<string, string> {
  if (typeof answer !== 'object' || answer === null) return new Map();
  const list: unknown[] = Array.isArray(answer) ? answer : Object.entries(answer).flat();
  return new Map(
    list.flatMap((item, index) => (index % 2 === 0 ? [[String(item), String(list[index + 1])] as const] : [])),
  );
}

/** `field:value` lines. */
export function linesOf(text: string): Map<string, string> {
  const lines = text.split('\r\n').filter((line) => line.includes(':'));
  return new Map(lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]));
}
