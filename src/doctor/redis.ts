import { Redis } from 'ioredis';
import { addressOptions, type RedisSettings } from '../queue/connection.ts';
import { displayRedisUrl } from '../redis-address.ts';
import { type Check, fail, ok, reason, warn } from './check.ts';

const TIMEOUT = 3000;
/** What BullMQ asks for (docs.bullmq.io, "Compatibility"). */
const OLDEST = 5;
const ADVISED = 6.2;

/** Whether the server is there and will keep jobs. */
export async function checkRedis(settings: RedisSettings): Promise<Check[]> {
  let options: ReturnType<typeof addressOptions>;
  try {
    options = addressOptions(settings);
  } catch (error) {
    return [fail('Redis', reason(error), 'correct the setting')];
  }
  const redis = new Redis({
    ...options,
    lazyConnect: true,
    connectTimeout: TIMEOUT,
    commandTimeout: TIMEOUT,
    maxRetriesPerRequest: 0,
    retryStrategy: () => null,
  });
  // the failure that explains is this event's; the rejected promise only says that the connection is closed
  let failure: unknown;
  redis.on('error', (error) => {
    failure = error;
  });
  const where = displayRedisUrl(settings.REDIS_URL);
  try {
    await redis.connect();
    const info = fieldsOf(await redis.info());
    return [version(info, where), policy(info), persistence(info)];
  } catch (error) {
    const why = reason(failure ?? error);
    const denied = /NOAUTH|WRONGPASS|NOPERM/.test(why);
    const advice = denied
      ? 'put user and password into REDIS_URL: redis://user:password@host:port'
      : 'start Redis or Valkey, or correct REDIS_URL';
    return [fail('Redis', `${where} does not answer: ${why}`, advice)];
  } finally {
    redis.disconnect();
  }
}

function version(info: Info, where: string): Check {
  const valkey = info.get('valkey_version');
  const text = valkey === undefined ? `Redis ${info.get('redis_version')}` : `Valkey ${valkey}`;
  // Valkey says which Redis it is compatible with (7.2 and newer)
  const number = Number.parseFloat(info.get('redis_version') ?? '0');
  const finding = `${text} at ${where}`;
  if (number < OLDEST) return fail('Redis', finding, `BullMQ needs Redis ${OLDEST} or newer: upgrade it`);
  if (number < ADVISED) return warn('Redis', finding, `BullMQ works best with ${ADVISED} or newer: upgrade it`);
  return ok('Redis', finding);
}

function policy(info: Info): Check {
  const name = 'Redis memory';
  const found = info.get('maxmemory_policy') ?? 'unknown';
  if (found === 'noeviction') return ok(name, 'maxmemory-policy noeviction');
  return fail(
    name,
    `maxmemory-policy ${found}: jobs may vanish when memory runs short`,
    'set maxmemory-policy noeviction in the configuration of the server, or of its parameter group',
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
    'set appendonly yes, unless losing the waiting jobs with the server is acceptable',
  );
}

type Info = ReadonlyMap<string, string>;

/** The answer of INFO: `field:value` lines. */
function fieldsOf(text: string): Info {
  const lines = text.split('\r\n').filter((line) => line.includes(':'));
  return new Map(lines.map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)]));
}
