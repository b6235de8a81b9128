import { availableParallelism, hostname } from 'node:os';
import type * as z from 'zod';
import type { LayerLimits } from './archive/tar-reader.ts';
import type { UnpackSettings } from './image/unpacker.ts';
import { maskedRedisUrl, readRedisUrl } from './redis-address.ts';
import { addSecret, maskSecrets } from './secrets.ts';
import {
  bytes,
  count,
  duration,
  flag,
  httpUrl,
  line,
  list,
  oneOf,
  path,
  queueName,
  redisUrl,
} from './setting-kinds.ts';
import type { StoreOptions } from './snapshots/open.ts';
import type { S3Connection } from './source/s3.ts';

interface Setting<T extends z.ZodType> {
  readonly schema: T;
  readonly help: string;
  /** What an unset variable means, as one would write it; `undefined`: no value. */
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
 * Every setting: its environment variable, its meaning, its default. A command's flags override single values. Parsed
 * once, at the edge; nothing below reads the environment.
 */
export const SETTINGS = {
  REDIS_URL: setting(
    'Redis or Valkey: redis://[user:password@]host:port[/db], rediss:// with TLS',
    redisUrl,
    'redis://127.0.0.1:6379',
  ),
  REDIS_PASSWORD_FILE: optional('file with the password of Redis, where REDIS_URL has none', path),
  UNPACK_QUEUE: setting('queue name', queueName, 'image-unpack'),
  UNPACK_JOB: setting('job name', line, 'unpack'),
  UNPACK_REDIS_PREFIX: setting('prefix of every Redis key', line, 'bull'),
  UNPACK_JOBS: setting('jobs that one worker runs at once', count(1, 256), '4'),
  UNPACK_THREADS: setting(
    'apply threads of one worker: layers written at once',
    count(1, 256),
    String(Math.max(2, availableParallelism())),
  ),
  UNPACK_ATTEMPTS: setting('attempts of a job unless its producer says otherwise', count(1, 100), '5'),
  UNPACK_BACKOFF: setting(
    'wait before the second attempt; it doubles each time, with jitter',
    duration('0s', '10m'),
    '2s',
  ),
  UNPACK_JOB_TIMEOUT: setting('longest time one attempt may take', duration('100ms', '7d'), '1h'),
  UNPACK_GRACE: setting('time that running jobs get to finish after SIGTERM', duration('0s', '1d'), '25s'),
  UNPACK_LOCK: setting(
    'time after which the job of a silent worker is given to another',
    duration('100ms', '1h'),
    '30s',
  ),
  UNPACK_KEEP_COMPLETED: setting('completed jobs kept (at most a day)', count(0, 1_000_000), '1000'),
  UNPACK_KEEP_FAILED: setting('failed jobs kept (at most two weeks)', count(0, 1_000_000), '5000'),
  UNPACK_ROOT: setting('the snapshot store', path, '/var/lib/unpackd'),
  UNPACK_SNAPSHOTTER: setting(
    'overlay, or native (full copies) where overlayfs is not to be had',
    oneOf(['overlay', 'native']),
    'overlay',
  ),
  UNPACK_OWNERSHIP: setting(
    'keep the owners that layers name (needs root), or squash: all belongs to the user who unpacks, devices are left out',
    oneOf(['keep', 'squash']),
    'keep',
  ),
  UNPACK_DURABLE: setting('write a layer through to the disk before it is committed', flag, 'true'),
  UNPACK_NATIVE_INFLATE: setting(
    'call native decompressors directly: ISA-L for gzip where the machine has it (package libisal2), twice as fast, and Node’s zstd',
    flag,
    'true',
  ),
  UNPACK_MAX_LAYER_BYTES: setting('longest uncompressed layer', bytes('1KiB', '1024TiB'), '64GiB'),
  UNPACK_MAX_LAYER_ENTRIES: setting('most entries of a layer', count(1, 1_000_000_000), '10000000'),
  UNPACK_MAX_ENTRY_METADATA: setting(
    'longest metadata (PAX records, long names) of one entry',
    bytes('1KiB', '1GiB'),
    '1MiB',
  ),
  UNPACK_MAX_LAYER_MEMORY: setting(
    'most memory of one layer for what must be known until its last entry (times of directories, names of deletions), and for the window of a zstd frame, which may have 512 MiB at most',
    bytes('1KiB', '1TiB'),
    '512MiB',
  ),
  UNPACK_BUCKETS: setting('buckets that jobs may name, separated by commas; empty: any', list, ''),
  S3_ENDPOINT: optional('S3-compatible endpoint; unset: AWS', httpUrl),
  S3_FORCE_PATH_STYLE: optional('bucket in the path, not in the host name; default: true with S3_ENDPOINT', flag),
  AWS_CA_BUNDLE: optional('file with the certificates (PEM) of CAs to believe in besides the known ones', path),
  AWS_REGION: optional('region', line),
  AWS_DEFAULT_REGION: optional('region where AWS_REGION is unset', line),
  UNPACK_S3_CONNECT_TIMEOUT: setting('longest wait for a connection to S3', duration('10ms', '10m'), '5s'),
  UNPACK_S3_IDLE_TIMEOUT: setting('longest silence on an S3 connection', duration('10ms', '1h'), '30s'),
  UNPACK_S3_RESUMES: setting(
    'times in a row that one download continues after a broken connection without a new byte',
    count(0, 100),
    '5',
  ),
  UNPACK_S3_MIN_SPEED: setting(
    'bytes a second that an S3 connection must bring while it is waited for; a slower one counts as broken; 0: any',
    bytes('0', '1GiB'),
    '16KiB',
  ),
  UNPACK_S3_MIN_SPEED_TIME: setting('waiting after which that speed is looked at', duration('10ms', '1h'), '30s'),
  UNPACK_BOARD_HOST: setting('address of the board', line, '127.0.0.1'),
  UNPACK_BOARD_PORT: setting('port of the board', count(0, 65_535), '3000'),
  UNPACK_BOARD_USER: optional('user of the board', line),
  UNPACK_BOARD_PASSWORD: optional('password of the board; needed on any address but loopback', line),
  UNPACK_HEALTH_HOST: setting("address of a worker's /healthz and /readyz", line, '127.0.0.1'),
  UNPACK_HEALTH_PORT: optional("port of a worker's /healthz and /readyz; unset: none", count(0, 65_535)),
  UNPACK_LOG_LEVEL: setting(
    'least important line that is logged',
    oneOf(['trace', 'debug', 'info', 'warn', 'error', 'silent']),
    'info',
  ),
  UNPACK_LOG_FORMAT: setting('json, pretty, or auto: pretty on a terminal', oneOf(['auto', 'json', 'pretty']), 'auto'),
  UNPACK_WORKER_NAME: setting('name of this worker in results and in the board', line, `${hostname()}:${process.pid}`),
} as const satisfies Record<string, Setting<z.ZodType>>;

export type SettingName = keyof typeof SETTINGS;
export type Config = { readonly [K in SettingName]: z.output<(typeof SETTINGS)[K]['schema']> };

/** A setting that cannot be used; `message` names it, says what is wrong and what to write. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

/** Settings whose values are shown nowhere, and which are no flags, because flags are seen by every user of a machine. */
export const SECRET_SETTINGS: readonly SettingName[] = ['UNPACK_BOARD_PASSWORD'];
/** What the AWS SDK reads by itself, and errors of it could quote. */
const AWS_SECRETS = ['AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN'];

/** A value as it may be shown; `undefined` for one that may be, or hold, a secret that cannot be told apart. */
export function shownValue(name: SettingName, value: string): string | undefined {
  if (SECRET_SETTINGS.includes(name)) return undefined;
  if (name === 'REDIS_URL') return maskedRedisUrl(value);
  // wherever a URL was put that has, or could have, a user in it
  return /:\/\/.*@/.test(value) ? undefined : maskSecrets(value);
}

/** What is wrong with a value, after `label` and as much of the value as may be shown; `undefined` for a right one. */
export function settingProblem(name: SettingName, value: string, label: string = name): string | undefined {
  const parsed = SETTINGS[name].schema.safeParse(trimmed(name, value));
  if (parsed.success) return undefined;
  const sentence = parsed.error.issues.map((issue) => issue.message).join('; ');
  const shown = shownValue(name, value);
  return shown === undefined ? `${label}: ${sentence}` : `${label}=${JSON.stringify(shown)}: ${sentence}`;
}

/** Files of variables leave spaces and carriage returns at the ends of values, which belong to a password only. */
function trimmed(name: SettingName, value: string): string {
  return SECRET_SETTINGS.includes(name) ? value : value.trim();
}

/**
 * The settings from flags (first), the environment (second) and the defaults. An empty value is none.
 * @throws ConfigError that names every wrong setting
 */
export function loadConfig(
  flags: Partial<Record<SettingName, string | undefined>> = {},
  env: Readonly<Record<string, string | undefined>> = process.env,
): Config {
  const values: Record<string, unknown> = {};
  const wrong: string[] = [];
  for (const [name, { schema, fallback }] of Object.entries(SETTINGS) as [SettingName, Setting<z.ZodType>][]) {
    const given = flags[name] ?? env[name] ?? '';
    const parsed = schema.safeParse(given === '' ? fallback : trimmed(name, given));
    if (parsed.success) values[name] = parsed.data;
    else wrong.push(settingProblem(name, given) ?? name);
  }
  const config = values as Config;
  if (wrong.length === 0) wrong.push(...contradictions(config));
  if (wrong.length > 0) throw new ConfigError(wrong.join('\n'));
  addSecret(config.UNPACK_BOARD_PASSWORD);
  for (const name of AWS_SECRETS) addSecret(env[name]);
  return Object.freeze(config);
}

/** Settings of which each is right, and which are wrong together. */
function contradictions({ REDIS_URL: url, REDIS_PASSWORD_FILE: file }: Config): string[] {
  const address = readRedisUrl(url);
  if (typeof address === 'string') return [];
  addSecret(address.password);
  if (file === undefined && address.username !== undefined && address.password === undefined) {
    return [
      'REDIS_URL names a user and no password: write redis://user:password@host (redis://:password@host where there is only a password), or put the password into a file and name that in REDIS_PASSWORD_FILE',
    ];
  }
  if (file === undefined || address.password === undefined) return [];
  return [`REDIS_URL has a password, and REDIS_PASSWORD_FILE=${file} is to have one too: leave one of them out`];
}

/**
 * The worker's S3 settings as a source wants them.
 * @param env where a proxy would be named, which S3 connections don't use
 */
export function s3Connection(
  config: Config,
  env: Readonly<Record<string, string | undefined>> = process.env,
): S3Connection {
  const unusedProxy = proxyVariable(config.S3_ENDPOINT ?? 'https://s3.amazonaws.com', env);
  return {
    ...(config.S3_ENDPOINT === undefined ? {} : { endpoint: config.S3_ENDPOINT }),
    region: config.AWS_REGION ?? config.AWS_DEFAULT_REGION ?? 'us-east-1',
    forcePathStyle: config.S3_FORCE_PATH_STYLE ?? config.S3_ENDPOINT !== undefined,
    connectTimeout: config.UNPACK_S3_CONNECT_TIMEOUT,
    idleTimeout: config.UNPACK_S3_IDLE_TIMEOUT,
    maxResumes: config.UNPACK_S3_RESUMES,
    minimumSpeed: { bytesPerSecond: config.UNPACK_S3_MIN_SPEED, over: config.UNPACK_S3_MIN_SPEED_TIME },
    ...(config.AWS_CA_BUNDLE === undefined ? {} : { caBundle: config.AWS_CA_BUNDLE }),
    ...(unusedProxy === undefined ? {} : { unusedProxy }),
  };
}

/** The variable by which other programs would reach `url` through a proxy, as curl has it; never its value, a password may be in it. */
function proxyVariable(url: string, env: Readonly<Record<string, string | undefined>>): string | undefined {
  const { protocol, hostname } = new URL(url);
  const except = (env.NO_PROXY ?? env.no_proxy ?? '').split(',').map((one) => one.trim().replace(/^\*?\./, ''));
  if (except.some((one) => one === '*' || (one !== '' && `.${hostname}`.endsWith(`.${one}`)))) return undefined;
  const names = protocol === 'https:' ? ['HTTPS_PROXY', 'https_proxy'] : ['HTTP_PROXY', 'http_proxy'];
  return [...names, 'ALL_PROXY', 'all_proxy'].find((name) => (env[name] ?? '') !== '');
}

/** The snapshot store as one that layers are written to. */
export function storeToWrite(config: Config): StoreOptions {
  return { root: config.UNPACK_ROOT, type: config.UNPACK_SNAPSHOTTER, ownership: config.UNPACK_OWNERSHIP };
}

/** How this process unpacks images, as a worker or for `unpackd apply`. */
export function unpackSettings(config: Config): UnpackSettings {
  return {
    threads: config.UNPACK_THREADS,
    durable: config.UNPACK_DURABLE,
    apply: { limits: layerLimits(config), native: config.UNPACK_NATIVE_INFLATE },
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
