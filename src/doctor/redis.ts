import type { Redis } from 'ioredis';
import { type QueueSettings, singleConnection } from '../queue/connection.ts';
import { diagnoseRedisError, errorSource, type RedisDiagnosis, whyNotReady } from '../queue/redis-diagnosis.ts';
import { probeRedis } from '../queue/redis-probe.ts';
import { displayRedisUrl } from '../redis-address.ts';
import type { RedisSettings } from '../redis-settings.ts';
import { type Check, fail, ok, reason, warn } from './check.ts';
import { checkDeployment, linesOf } from './redis-deployment.ts';

const TIMEOUT = 3000;
/** Versions of Redis that BullMQ requires and recommends (docs.bullmq.io, "Compatibility"). */
const OLDEST = 5;
const ADVISED = 6.2;
const START = 'start Redis or Valkey, or correct REDIS_URL';

/** Tests what a queue does all the time: a script that writes two of its keys. The keys expire after a second. */
const TRY_WRITES = "for _, key in ipairs(KEYS) do redis.call('SET', key, '', 'PX', 1000) end";

/** Checks the Redis server: whether it answers, accepts the commands of a queue, and keeps its jobs. */
export async function checkRedis(
  settings: RedisSettings & Pick<QueueSettings, 'UNPACK_QUEUE' | 'UNPACK_REDIS_PREFIX'>,
): Promise<Check[]> {
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
    return [version(info, where), policy(info), persistence(info), ...(await checkDeployment(settings, redis, info))];
  } catch (error) {
    const diagnosis = unready ?? diagnoseRedisError(failure ?? error, errorSource(settings));
    const found = diagnosis !== undefined && diagnosis.kind !== 'unreachable' ? undefined : await probeRedis(settings);
    const sentence = (found ?? diagnosis)?.sentence ?? `does not answer: ${reason(failure ?? error)}`;
    const advice = found === undefined && diagnosis?.kind === 'unreachable' ? START : undefined;
    const colon = sentence.indexOf(': ');
    if (advice !== undefined || colon === -1) return [fail('Redis', `${where} ${sentence}`, advice ?? START)];
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

function policy(info: Info): Check {
  const name = 'Redis memory';
  const found = info.get('maxmemory_policy') ?? 'unknown';
  if (found === 'noeviction') return ok(name, 'maxmemory-policy noeviction');
  return fail(
    name,
    `maxmemory-policy ${found}: Redis can evict jobs when its memory is full`,
    'set maxmemory-policy noeviction in the configuration of the server, or in its parameter group',
  );
}

function persistence(info: Info): Check {
  const name = 'Redis persistence';
  if (info.get('aof_enabled') === '1') return ok(name, 'append-only file');
  const saved = info.get('rdb_last_save_time') ?? '0';
  const detail = info.get('rdb_last_bgsave_status') === 'err' ? ', and the last snapshot failed' : '';
  return warn(
    name,
    `no append-only file${detail} (last snapshot ${new Date(Number(saved) * 1000).toISOString()})`,
    'set appendonly yes, unless you accept that waiting jobs are lost with the server',
  );
}

type Info = ReadonlyMap<string, string>;
