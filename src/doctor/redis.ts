import type { Redis } from 'ioredis';
import { type QueueSettings, singleConnection } from '../queue/connection.ts';
import { diagnoseRedisError, errorSource, type RedisDiagnosis, whyNotReady } from '../queue/redis-diagnosis.ts';
import { probeRedis } from '../queue/redis-probe.ts';
import { displayRedisUrl, type RedisAddress, readRedisUrl } from '../redis-address.ts';
import type { RedisSettings } from '../redis-settings.ts';
import { bytesText } from '../units.ts';
import { type Check, fail, ok, reason, warn } from './check.ts';
import { checkDeployment, linesOf } from './redis-deployment.ts';

const TIMEOUT = 3000;
/** Versions of Redis that BullMQ requires and recommends (docs.bullmq.io, "Compatibility"). */
const OLDEST = 5;
const ADVISED = 6.2;
const START: Readonly<Record<RedisAddress['kind'], string>> = {
  single: 'start Redis or Valkey, or correct REDIS_URL',
  sentinel: 'start the sentinels, or correct REDIS_URL',
  cluster: 'start the nodes, or correct REDIS_URL',
};
/** Share of the memory limit from which on a warning comes. */
const NEARLY_FULL = 0.9;

/** Tests what a queue does all the time: a script that writes two of its keys. The keys expire after a second. */
const TRY_WRITES = "for _, key in ipairs(KEYS) do redis.call('SET', key, '', 'PX', 1000) end";

/** Checks the Redis server: whether it answers, accepts the commands of a queue, and keeps its jobs. */
export async function checkRedis(
  settings: RedisSettings & Pick<QueueSettings, 'UNPACK_QUEUE' | 'UNPACK_REDIS_PREFIX' | 'UNPACK_REDIS_REPLICAS'>,
): Promise<Check[]> {
  const address = readRedisUrl(settings.REDIS_URL);
  const start = START[typeof address === 'string' ? 'single' : address.kind];
  let redis: Redis;
  try {
    redis = singleConnection(settings, TIMEOUT);
  } catch (error) {
    return [fail('Redis', reason(error), 'correct this setting')];
  }
  // the event has the cause; the error of the rejected promise is only "connection is closed"
  let failure: unknown;
  redis.on('error', (error) => {
    failure ??= error;
  });
  // the time limit is needed, because a server that hangs or loads its data does not answer
  let unready: RedisDiagnosis | undefined;
  const late = setTimeout(async () => {
    if (redis.status === 'connect') unready = await whyNotReady(redis);
    if (redis.status !== 'ready') redis.disconnect();
  }, TIMEOUT);
  const where = displayRedisUrl(settings.REDIS_URL);
  try {
    await redis.connect();
    if (failure !== undefined) throw failure;
    const info = linesOf(await redis.info());
    const { UNPACK_REDIS_PREFIX: prefix, UNPACK_QUEUE: queue } = settings;
    const keys = [1, 2].map((number) => `${prefix}:${queue}:unpackd-probe-${number}`);
    await redis.eval(TRY_WRITES, keys.length, ...keys);
    const failover = typeof address === 'object' && address.kind !== 'single';
    return [
      version(info, where),
      memory(info),
      persistence(info, failover),
      ...(await checkDeployment(settings, redis, info)),
    ];
  } catch (error) {
    const diagnosis = unready ?? diagnoseRedisError(failure ?? error, errorSource(settings));
    const found = diagnosis !== undefined && diagnosis.kind !== 'unreachable' ? undefined : await probeRedis(settings);
    const sentence = (found ?? diagnosis)?.sentence ?? `does not answer: ${reason(failure ?? error)}`;
    const advice = found === undefined && diagnosis?.kind === 'unreachable' ? start : undefined;
    const colon = sentence.indexOf(': ');
    if (advice !== undefined || colon === -1) return [fail('Redis', `${where} ${sentence}`, advice ?? start)];
    return [fail('Redis', `${where} ${sentence.slice(0, colon)}`, sentence.slice(colon + 2))];
  } finally {
    clearTimeout(late);
    redis.disconnect();
  }
}

function version(info: Info, where: string): Check {
  const valkey = info.get('valkey_version');
  const text = valkey === undefined ? `Redis ${info.get('redis_version')}` : `Valkey ${valkey}`;
  // Valkey reports the version of Redis that it is compatible with (7.2 or newer)
  const number = Number.parseFloat(info.get('redis_version') ?? '0');
  const finding = `${text} at ${where}`;
  if (number < OLDEST) return fail('Redis', finding, `BullMQ needs Redis ${OLDEST} or newer: upgrade Redis`);
  if (number < ADVISED) return warn('Redis', finding, `BullMQ recommends Redis ${ADVISED} or newer: upgrade Redis`);
  return ok('Redis', finding);
}

/** Whether Redis refuses writes, and does not evict jobs, when its memory is full; and how full it is. */
function memory(info: Info): Check {
  const name = 'Redis memory';
  const found = info.get('maxmemory_policy') ?? 'unknown';
  const [used, limit] = [Number(info.get('used_memory') ?? 0), Number(info.get('maxmemory') ?? 0)];
  const finding = `maxmemory-policy ${found}; ${bytesText(used)} ${limit === 0 ? 'in use, without a limit (maxmemory)' : `of ${bytesText(limit)} (maxmemory) in use`}`;
  if (found !== 'noeviction') {
    return fail(
      name,
      `${finding}: Redis can evict jobs when its memory is full`,
      'set maxmemory-policy noeviction in the configuration of the server, or in its parameter group',
    );
  }
  if (limit === 0 || used < NEARLY_FULL * limit) return ok(name, finding);
  return warn(
    name,
    `${finding}: jobs are refused when it is full`,
    'raise maxmemory, or keep fewer jobs (UNPACK_KEEP_COMPLETED, UNPACK_KEEP_FAILED)',
  );
}

/** @param failover whether replicas copy what this server has */
function persistence(info: Info, failover: boolean): Check {
  const name = 'Redis persistence';
  const isOn = info.get('aof_enabled') === '1';
  if (isOn && info.get('aof_last_write_status') !== 'err') return ok(name, 'append-only file');
  if (isOn) {
    return warn(name, 'the append-only file cannot be written', 'free space on the disk of Redis, and see its log');
  }
  const failed = info.get('rdb_last_bgsave_status') === 'err' ? ', and the last snapshot failed' : '';
  // rdb_saves exists from Redis 7 on; without a snapshot, rdb_last_save_time is the time when the server started
  const never = info.get('rdb_saves') === '0';
  const saved = new Date(Number(info.get('rdb_last_save_time') ?? '0') * 1000).toISOString();
  return warn(
    name,
    `no append-only file${failed}; ${never ? 'no snapshot since the server started' : `last snapshot ${saved}`}`,
    failover
      ? 'set appendonly yes on every server: replicas copy the empty database of a primary that starts again without its data'
      : 'set appendonly yes, unless you accept that waiting jobs are lost with the server',
  );
}

type Info = ReadonlyMap<string, string>;
