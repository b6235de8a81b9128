import { availableParallelism, hostname } from 'node:os';
import type * as z from 'zod';
import type { LayerLimits } from './archive/tar-reader.ts';
import { isLess, type Marks, notLessText } from './collector/free-space.ts';
import { ConfigError } from './errors.ts';
import type { UnpackSettings } from './image/unpacker.ts';
import { maskedRedisUrl } from './redis-address.ts';
import { redisContradictions } from './redis-settings.ts';
import { addSecret, maskSecrets } from './secrets.ts';
import {
  bytes,
  containerdName,
  count,
  duration,
  flag,
  freeSpace,
  httpUrl,
  line,
  list,
  oneOf,
  path,
  queueName,
  redisUrl,
} from './setting-kinds.ts';
import type { StoreOptions } from './snapshots/open.ts';
import type { StorePlace } from './snapshots/open-store.ts';

interface Setting<T extends z.ZodType> {
  readonly schema: T;
  readonly help: string;
  /** The default, as text; `undefined` if there is none. */
  readonly fallback: string | undefined;
}

const setting = <T extends z.ZodType>(help: string, schema: T, fallback: string): Setting<T> => ({
  schema,
  help,
  fallback,
});
const optional = <T extends z.ZodType>(help: string, schema: T): Setting<z.ZodOptional<T>> => ({
  schema: schema.optional(),
  help,
  fallback: undefined,
});

/**
 * Every setting: its environment variable, its meaning and its default. The flags of a command override them. The settings are
 * parsed once, when a program starts; nothing else reads the environment.
 */
export const SETTINGS = {
  REDIS_URL: setting(
    'Redis or Valkey: redis://[user:password@]host:port[/db]; redis+sentinel://host:port,host:port/name; redis+cluster://host:port,host:port; rediss for TLS in each',
    redisUrl,
    'redis://127.0.0.1:6379',
  ),
  REDIS_PASSWORD_FILE: optional('file with the password of Redis, if REDIS_URL has none', path),
  REDIS_SENTINEL_USERNAME: optional('user name at the sentinels; unset: default', line),
  REDIS_SENTINEL_PASSWORD_FILE: optional('file with the password of the sentinels, if they need one', path),
  REDIS_TLS_CA: optional(
    'file with certificates (PEM) of the CAs to trust for Redis, and no others; unset: those that Node knows',
    path,
  ),
  REDIS_TLS_CERT: optional('file with the client certificate (PEM) for Redis, if it asks for one', path),
  REDIS_TLS_KEY: optional('file with the key (PEM) of the client certificate', path),
  REDIS_TLS_KEY_PASSWORD_FILE: optional('file with the password of that key, if it is encrypted', path),
  REDIS_TLS_SERVER_NAME: optional(
    "name that the servers' certificates must have, if it is not the host that is connected to",
    line,
  ),
  UNPACK_QUEUE: setting('name of the queue', queueName, 'image-unpack'),
  UNPACK_JOB: setting('name of the jobs', line, 'unpack'),
  UNPACK_REDIS_PREFIX: setting('prefix of every Redis key', line, 'bull'),
  UNPACK_REDIS_REPLICAS: setting(
    'number of replicas that must have a job before it counts as added, cancelled or retried; 0: the primary is enough',
    count(0, 10),
    '0',
  ),
  UNPACK_JOBS: setting('maximum number of jobs that a worker runs at the same time', count(1, 256), '4'),
  UNPACK_THREADS: setting(
    'number of apply threads of a worker, which is the maximum number of layers that it writes at the same time',
    count(1, 256),
    String(Math.max(2, availableParallelism())),
  ),
  UNPACK_ATTEMPTS: setting('number of attempts of a job whose producer sets none', count(1, 100), '5'),
  UNPACK_BACKOFF: setting(
    'wait before the second attempt; it doubles before each further attempt, with jitter',
    duration('0s', '10m'),
    '2s',
  ),
  UNPACK_JOB_TIMEOUT: setting('time limit for one attempt', duration('100ms', '7d'), '1h'),
  UNPACK_GRACE: setting('time that running jobs have to finish after SIGTERM', duration('0s', '1d'), '25s'),
  UNPACK_LOCK: setting(
    'time after which another worker takes the job of a worker that does not respond',
    duration('100ms', '1h'),
    '30s',
  ),
  UNPACK_KEEP_COMPLETED: setting('number of completed jobs to keep (for one day at most)', count(0, 1_000_000), '1000'),
  UNPACK_KEEP_FAILED: setting('number of failed jobs to keep (for two weeks at most)', count(0, 1_000_000), '5000'),
  UNPACK_LISTED_IMAGES: setting(
    'number of images of its store that a worker lists in Redis for the board, those that were used last; 0: none',
    count(0, 100_000),
    '2000',
  ),
  UNPACK_ROOT: setting('folder of the snapshot store', path, '/var/lib/unpackd'),
  UNPACK_SNAPSHOTTER: setting(
    'overlay, or native (full copies) if overlayfs cannot be used; containerd: the snapshots and images of a containerd on this machine',
    oneOf(['overlay', 'native', 'containerd']),
    'overlay',
  ),
  UNPACK_CONTAINERD_SOCKET: setting(
    'socket of containerd, if UNPACK_SNAPSHOTTER=containerd; its root must be at the same path here',
    path,
    '/run/containerd/containerd.sock',
  ),
  UNPACK_CONTAINERD_NAMESPACE: setting(
    "namespace of containerd; k8s.io is Kubernetes's, default is that of ctr and nerdctl",
    containerdName,
    'k8s.io',
  ),
  UNPACK_CONTAINERD_SNAPSHOTTER: setting(
    'snapshotter of containerd; it must use overlayfs',
    containerdName,
    'overlayfs',
  ),
  UNPACK_SNAPSHOTTER_SOCKET: optional(
    'Unix socket on which containerd uses the store as a proxy snapshotter: of unpackd snapshotter, and of a worker if it is set',
    path,
  ),
  UNPACK_OWNERSHIP: setting(
    'keep: set the owners of the layers (needs root); squash: the user who unpacks owns all files, and devices are left out',
    oneOf(['keep', 'squash']),
    'keep',
  ),
  UNPACK_DURABLE: setting(
    'sync each layer to disk before it is committed, and use only synced layers; if false, layers are synced about ten seconds later, and are unpacked again if a power cut comes first',
    flag,
    'true',
  ),
  UNPACK_GC_LOW: optional(
    'free space of the disk below which the images that were not used for the longest time are removed, as a share of its bytes and inodes (10%) or in bytes (20GiB); unset, as UNPACK_GC_HIGH: nothing is removed',
    freeSpace,
  ),
  UNPACK_GC_HIGH: optional('free space of the disk at which that removal stops; more than UNPACK_GC_LOW', freeSpace),
  UNPACK_NATIVE_INFLATE: setting(
    'call native decompressors directly: ISA-L for gzip, which is twice as fast, if it is installed (package libisal2), and the zstd of Node',
    flag,
    'true',
  ),
  UNPACK_MAX_LAYER_BYTES: setting('maximum size of an uncompressed layer', bytes('1KiB', '1024TiB'), '64GiB'),
  UNPACK_MAX_LAYER_ENTRIES: setting('maximum number of entries of a layer', count(1, 1_000_000_000), '10000000'),
  UNPACK_MAX_ENTRY_METADATA: setting(
    'maximum size of the metadata of one entry (PAX records, long names)',
    bytes('1KiB', '1GiB'),
    '1MiB',
  ),
  UNPACK_MAX_LAYER_MEMORY: setting(
    'maximum memory of one layer for data that is kept until its last entry (times of directories, names of whiteouts), and, up to 512 MiB, for the window of a zstd frame',
    bytes('1KiB', '1TiB'),
    '512MiB',
  ),
  UNPACK_BUCKETS: setting('buckets that jobs are allowed to read, separated by commas; empty: all', list, ''),
  S3_ENDPOINT: optional('endpoint of an S3-compatible server; unset: AWS', httpUrl),
  S3_FORCE_PATH_STYLE: optional(
    'put the bucket into the path, not into the host name; default: true if S3_ENDPOINT is set',
    flag,
  ),
  UNPACK_S3_ENDPOINTS: optional(
    'JSON file with other endpoints, regions and profiles for some buckets; read when a program starts',
    path,
  ),
  UNPACK_S3_REQUESTER_PAYS: setting('agree to pay for requests to buckets whose requester pays', flag, 'false'),
  AWS_CA_BUNDLE: optional('file with certificates (PEM) of CAs to trust in addition to the known ones', path),
  AWS_REGION: optional('region of S3', line),
  AWS_DEFAULT_REGION: optional('region of S3 if AWS_REGION is unset', line),
  UNPACK_S3_CONNECT_TIMEOUT: setting('time limit for connecting to S3', duration('10ms', '10m'), '5s'),
  UNPACK_S3_IDLE_TIMEOUT: setting('maximum time without data on an S3 connection', duration('10ms', '1h'), '30s'),
  UNPACK_S3_RESUMES: setting('how often a download resumes in a row without receiving a byte', count(0, 100), '5'),
  UNPACK_S3_MIN_SPEED: setting(
    'minimum number of bytes per second on an S3 connection while a reader waits for data; a slower connection is replaced; 0: no minimum',
    bytes('0', '1GiB'),
    '16KiB',
  ),
  UNPACK_S3_MIN_SPEED_TIME: setting('time over which UNPACK_S3_MIN_SPEED is measured', duration('10ms', '1h'), '30s'),
  UNPACK_BOARD_HOST: setting('address that the board listens on', line, '127.0.0.1'),
  UNPACK_BOARD_PORT: setting('port that the board listens on', count(0, 65_535), '3000'),
  UNPACK_BOARD_USER: optional('user name for the board', line),
  UNPACK_BOARD_PASSWORD: optional('password for the board; required on every address except loopback', line),
  UNPACK_HEALTH_HOST: setting(
    'address of /healthz, /readyz and /metrics of a worker or of unpackd snapshotter',
    line,
    '127.0.0.1',
  ),
  UNPACK_HEALTH_PORT: optional(
    'port of /healthz, /readyz and /metrics of a worker or of unpackd snapshotter; unset: they are not served',
    count(0, 65_535),
  ),
  UNPACK_LOG_LEVEL: setting(
    'lowest level that is logged',
    oneOf(['trace', 'debug', 'info', 'warn', 'error', 'silent']),
    'info',
  ),
  UNPACK_LOG_FORMAT: setting(
    'json, pretty, or auto: pretty on a terminal, else json',
    oneOf(['auto', 'json', 'pretty']),
    'auto',
  ),
  UNPACK_WORKER_NAME: setting('name of this worker in results and in the board', line, `${hostname()}:${process.pid}`),
} as const satisfies Record<string, Setting<z.ZodType>>;

export type SettingName = keyof typeof SETTINGS;
export type Config = { readonly [K in SettingName]: z.output<(typeof SETTINGS)[K]['schema']> };

/** Secrets. They are never shown, and have no flags, because every user of a machine can see flags. */
export const SECRET_SETTINGS: readonly SettingName[] = ['UNPACK_BOARD_PASSWORD'];
/** Secrets that the AWS SDK reads itself. Its errors could quote them. */
const AWS_SECRETS = ['AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN'];

/** The value of a setting with its secrets masked; `undefined` if a secret in it cannot be located. */
export function shownValue(name: SettingName, value: string): string | undefined {
  if (SECRET_SETTINGS.includes(name)) return undefined;
  if (name === 'REDIS_URL') return maskedRedisUrl(value);
  // a URL that can contain a user and a password
  return /:\/\/.*@/.test(value) ? undefined : maskSecrets(value);
}

/**
 * Why a value is wrong: `label`, the value unless it can be a secret, and what to write. `undefined` if the value is
 * right.
 */
export function settingProblem(name: SettingName, value: string, label: string = name): string | undefined {
  const parsed = SETTINGS[name].schema.safeParse(trimmed(name, value));
  if (parsed.success) return undefined;
  const sentence = parsed.error.issues.map((issue) => issue.message).join('; ');
  const shown = shownValue(name, value);
  return shown === undefined ? `${label}: ${sentence}` : `${label}=${JSON.stringify(shown)}: ${sentence}`;
}

/** Removes spaces and carriage returns around a value, which env files can leave there. Passwords keep them. */
function trimmed(name: SettingName, value: string): string {
  return SECRET_SETTINGS.includes(name) ? value : value.trim();
}

/**
 * Reads every setting: the flag, or else the environment variable, or else the default. An empty value counts as unset.
 * @throws ConfigError with every wrong setting
 */
export function loadConfig(flags: SettingTexts = {}, env: Environment = process.env): Config {
  const config: Config = loadSettings(Object.keys(SETTINGS) as SettingName[], contradictions, flags, env);
  addSecret(config.UNPACK_BOARD_PASSWORD);
  for (const name of AWS_SECRETS) addSecret(env[name]);
  return config;
}

/** The settings of the queue. Producers need no others, so a wrong setting of the store does not stop them. */
export const QUEUE_SETTINGS = [
  'REDIS_URL',
  'REDIS_PASSWORD_FILE',
  'REDIS_SENTINEL_USERNAME',
  'REDIS_SENTINEL_PASSWORD_FILE',
  'REDIS_TLS_CA',
  'REDIS_TLS_CERT',
  'REDIS_TLS_KEY',
  'REDIS_TLS_KEY_PASSWORD_FILE',
  'REDIS_TLS_SERVER_NAME',
  'UNPACK_QUEUE',
  'UNPACK_JOB',
  'UNPACK_REDIS_PREFIX',
  'UNPACK_REDIS_REPLICAS',
] as const satisfies readonly SettingName[];

/** Reads only the settings of the queue from the environment. @throws ConfigError as `loadConfig` */
export function loadQueueSettings(env: Environment): Pick<Config, (typeof QUEUE_SETTINGS)[number]> {
  return loadSettings(QUEUE_SETTINGS, redisContradictions, {}, env);
}

type SettingTexts = Partial<Record<SettingName, string | undefined>>;
type Environment = Readonly<Record<string, string | undefined>>;

/**
 * @param contradictions finds settings that are valid alone but contradict each other
 * @throws ConfigError with every wrong setting
 */
function loadSettings<K extends SettingName>(
  names: readonly K[],
  contradictions: (settings: Pick<Config, K>) => string[],
  flags: SettingTexts,
  env: Environment,
): Pick<Config, K> {
  const values: Record<string, unknown> = {};
  const wrong: string[] = [];
  for (const name of names) {
    const { schema, fallback }: Setting<z.ZodType> = SETTINGS[name];
    const given = flags[name] ?? env[name] ?? '';
    const parsed = schema.safeParse(given === '' ? fallback : trimmed(name, given));
    if (parsed.success) values[name] = parsed.data;
    else wrong.push(settingProblem(name, given) ?? name);
  }
  const settings = values as Pick<Config, K>;
  if (wrong.length === 0) wrong.push(...contradictions(settings));
  if (wrong.length > 0) throw new ConfigError(wrong.join('\n'));
  return Object.freeze(settings);
}

function contradictions(config: Config): string[] {
  return [...redisContradictions(config), ...markContradictions(config), ...ownerContradictions(config)];
}

/** containerd uses the store in one of two ways. */
function ownerContradictions(config: Config): string[] {
  const { UNPACK_SNAPSHOTTER: snapshotter, UNPACK_OWNERSHIP: ownership, UNPACK_SNAPSHOTTER_SOCKET: socket } = config;
  if (snapshotter === 'containerd' && socket !== undefined) {
    return [
      'UNPACK_SNAPSHOTTER=containerd and UNPACK_SNAPSHOTTER_SOCKET are set, but only a store of our own is served on a socket: unset the socket, or set UNPACK_SNAPSHOTTER=overlay',
    ];
  }
  const use = snapshotter === 'containerd' ? 'UNPACK_SNAPSHOTTER=containerd' : 'UNPACK_SNAPSHOTTER_SOCKET';
  if (ownership === 'keep' || (snapshotter !== 'containerd' && socket === undefined)) return [];
  return [
    `UNPACK_OWNERSHIP=${ownership} and ${use} are set, but containers need the owners that their images name: set UNPACK_OWNERSHIP=keep`,
  ];
}

function markContradictions({ UNPACK_GC_LOW: low, UNPACK_GC_HIGH: high }: Config): string[] {
  if (low === undefined && high === undefined) return [];
  if (low === undefined || high === undefined) {
    const [there, missing] = low === undefined ? ['HIGH', 'LOW'] : ['LOW', 'HIGH'];
    return [`UNPACK_GC_${there} is set and UNPACK_GC_${missing} is not: set both, or none`];
  }
  // per cent and bytes are compared when the size of the disk is known
  if (isLess(low, high) !== false) return [];
  return [`${notLessText({ low, high })}: images are removed below UNPACK_GC_LOW, until UNPACK_GC_HIGH is free`];
}

/** The store that the settings name. */
export function storePlace(config: Config): StorePlace {
  const { UNPACK_ROOT: root, UNPACK_SNAPSHOTTER: type } = config;
  if (type !== 'containerd') return { root, type };
  return {
    type,
    socket: config.UNPACK_CONTAINERD_SOCKET,
    namespace: config.UNPACK_CONTAINERD_NAMESPACE,
    snapshotter: config.UNPACK_CONTAINERD_SNAPSHOTTER,
    stateRoot: root,
  };
}

/** The same for what only a store of our own can do. @throws ConfigError if the settings name containerd's */
export function ownStorePlace(config: Config, what: string): Pick<StoreOptions, 'root' | 'type'> {
  const place = storePlace(config);
  if (place.type !== 'containerd') return place;
  throw new ConfigError(`${what} needs a store of our own: set UNPACK_SNAPSHOTTER=overlay, or native`);
}

/** The options to open that store for writing. */
export function storeToWrite(config: Config): Pick<StoreOptions, 'ownership' | 'durable'> {
  return { ownership: config.UNPACK_OWNERSHIP, durable: config.UNPACK_DURABLE };
}

/** The marks of the collector; `undefined` if it is off. */
export function collectorMarks({ UNPACK_GC_LOW: low, UNPACK_GC_HIGH: high }: Config): Marks | undefined {
  return low === undefined || high === undefined ? undefined : { low, high };
}

/** The settings of unpacking, for a worker or `unpackd apply`. */
export function unpackSettings(config: Config): UnpackSettings {
  return {
    threads: config.UNPACK_THREADS,
    apply: { limits: layerLimits(config), native: config.UNPACK_NATIVE_INFLATE },
    marks: collectorMarks(config),
  };
}

/** The limits on one layer. */
export function layerLimits(config: Config): LayerLimits {
  return {
    uncompressedBytes: config.UNPACK_MAX_LAYER_BYTES,
    entries: config.UNPACK_MAX_LAYER_ENTRIES,
    entryMetadataBytes: config.UNPACK_MAX_ENTRY_METADATA,
    memoryBytes: config.UNPACK_MAX_LAYER_MEMORY,
  };
}
