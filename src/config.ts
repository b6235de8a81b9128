import { availableParallelism, hostname } from 'node:os';
import { resolve } from 'node:path';
import * as z from 'zod';
import type { LayerLimits } from './archive/limits.ts';
import type { StoreOptions } from './snapshots/open.ts';
import type { S3Connection } from './source/s3.ts';

/**
 * Every setting: its environment variable, its meaning, its default. A command's flags override single values. Parsed
 * once, at the edge; nothing below reads the environment.
 */
const bytes = z
  .string()
  .regex(/^\d+(\.\d+)?\s*([KMGT]i?B?)?$/i, 'write a number of bytes, or one with a unit, as in 512MiB')
  .transform((text) => {
    const [, number = '0', unit = ''] = /^([\d.]+)\s*([KMGT]?)/i.exec(text) ?? [];
    return Math.round(Number(number) * 1024 ** ' KMGT'.indexOf(unit.toUpperCase() || ' '));
  });
const count = (min: number, max: number) =>
  z.string().regex(/^\d+$/, 'write a whole number').transform(Number).pipe(z.number().min(min).max(max));
const milliseconds = z
  .string()
  .regex(/^\d+(\.\d+)?\s*(ms|s|m|h)$/, 'write a time with its unit, as in 500ms, 30s, 5m')
  .transform((text) => {
    const [, number = '0', unit = 'ms'] = /^([\d.]+)\s*(ms|s|m|h)$/.exec(text) ?? [];
    return Math.round(Number(number) * ({ ms: 1, s: 1000, m: 60_000, h: 3_600_000 }[unit] ?? 1));
  });
const flag = z
  .enum(['1', '0', 'true', 'false', 'yes', 'no', 'on', 'off'], { error: 'write true or false' })
  .transform((text) => ['1', 'true', 'yes', 'on'].includes(text));
const list = z.string().transform((text) =>
  text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== ''),
);

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

export const SETTINGS = {
  REDIS_URL: setting(
    'Redis or Valkey',
    z.url({ protocol: /^rediss?$/, error: 'write redis://[user:password@]host:port[/db] (rediss:// for TLS)' }),
    'redis://127.0.0.1:6379',
  ),
  UNPACK_QUEUE: setting('queue name', z.string().min(1), 'image-unpack'),
  UNPACK_JOB: setting('job name', z.string().min(1), 'unpack'),
  UNPACK_REDIS_PREFIX: setting('prefix of every Redis key', z.string().min(1), 'bull'),
  UNPACK_JOBS: setting('jobs that one worker runs at once', count(1, 256), '4'),
  UNPACK_THREADS: setting(
    'apply threads of one worker: layers written at once',
    count(1, 256),
    String(Math.max(2, availableParallelism())),
  ),
  UNPACK_ATTEMPTS: setting('attempts of a job unless its producer says otherwise', count(1, 100), '5'),
  UNPACK_BACKOFF: setting('wait before the second attempt; it doubles each time, with jitter', milliseconds, '2s'),
  UNPACK_JOB_TIMEOUT: setting('longest time one attempt may take', milliseconds, '1h'),
  UNPACK_GRACE: setting('time that running jobs get to finish after SIGTERM', milliseconds, '25s'),
  UNPACK_LOCK: setting('time after which the job of a silent worker is given to another', milliseconds, '30s'),
  UNPACK_KEEP_COMPLETED: setting('completed jobs kept (at most a day)', count(0, 1_000_000), '1000'),
  UNPACK_KEEP_FAILED: setting('failed jobs kept (at most two weeks)', count(0, 1_000_000), '5000'),
  UNPACK_ROOT: setting(
    'the snapshot store',
    z
      .string()
      .min(1)
      .transform((path) => resolve(path)),
    '/var/lib/unpackd',
  ),
  UNPACK_SNAPSHOTTER: setting(
    'overlay, or native (full copies) where overlayfs is not to be had',
    z.enum(['overlay', 'native'], { error: 'write overlay or native' }),
    'overlay',
  ),
  UNPACK_OWNERSHIP: setting(
    'keep the owners that layers name (needs root), or squash: all belongs to the user who unpacks, devices are left out',
    z.enum(['keep', 'squash'], { error: 'write keep or squash' }),
    'keep',
  ),
  UNPACK_DURABLE: setting('write a layer through to the disk before it is committed', flag, 'true'),
  UNPACK_NATIVE_INFLATE: setting(
    'call native decompressors directly: ISA-L for gzip where the machine has it (package libisal2), twice as fast, and Node’s zstd',
    flag,
    'true',
  ),
  UNPACK_MAX_LAYER_BYTES: setting('longest uncompressed layer', bytes, '64GiB'),
  UNPACK_MAX_LAYER_ENTRIES: setting('most entries of a layer', count(1, 1_000_000_000), '10000000'),
  UNPACK_MAX_ENTRY_METADATA: setting('longest metadata (PAX records, long names) of one entry', bytes, '1MiB'),
  UNPACK_MAX_LAYER_MEMORY: setting(
    'most memory of one layer for what must be known until its last entry: times of directories, names of deletions',
    bytes,
    '512MiB',
  ),
  UNPACK_BUCKETS: setting('buckets that jobs may name, separated by commas; empty: any', list, ''),
  S3_ENDPOINT: optional(
    'S3-compatible endpoint; unset: AWS',
    z.url({ protocol: /^https?$/, error: 'write http://host:port or https://host' }),
  ),
  S3_FORCE_PATH_STYLE: optional('bucket in the path, not in the host name; default: true with S3_ENDPOINT', flag),
  AWS_REGION: optional('region', z.string().min(1)),
  AWS_DEFAULT_REGION: optional('region where AWS_REGION is unset', z.string().min(1)),
  UNPACK_S3_CONNECT_TIMEOUT: setting('longest wait for a connection to S3', milliseconds, '5s'),
  UNPACK_S3_IDLE_TIMEOUT: setting('longest silence on an S3 connection', milliseconds, '30s'),
  UNPACK_S3_RESUMES: setting('times that one download continues after a broken connection', count(0, 100), '5'),
  UNPACK_BOARD_HOST: setting('address of the board', z.string().min(1), '127.0.0.1'),
  UNPACK_BOARD_PORT: setting('port of the board', count(0, 65_535), '3000'),
  UNPACK_BOARD_USER: optional('user of the board', z.string().min(1)),
  UNPACK_BOARD_PASSWORD: optional('password of the board; needed on any address but loopback', z.string().min(1)),
  UNPACK_HEALTH_HOST: setting("address of a worker's /healthz and /readyz", z.string().min(1), '127.0.0.1'),
  UNPACK_HEALTH_PORT: optional("port of a worker's /healthz and /readyz; unset: none", count(0, 65_535)),
  UNPACK_LOG_LEVEL: setting(
    'least important line that is logged',
    z.enum(['trace', 'debug', 'info', 'warn', 'error', 'silent'], {
      error: 'write trace, debug, info, warn, error or silent',
    }),
    'info',
  ),
  UNPACK_LOG_FORMAT: setting(
    'json, pretty, or auto: pretty on a terminal',
    z.enum(['auto', 'json', 'pretty'], { error: 'write auto, json or pretty' }),
    'auto',
  ),
  UNPACK_WORKER_NAME: setting(
    'name of this worker in results and in the board',
    z.string().min(1),
    `${hostname()}:${process.pid}`,
  ),
} as const satisfies Record<string, Setting<z.ZodType>>;

export type SettingName = keyof typeof SETTINGS;
export type Config = { readonly [K in SettingName]: z.output<(typeof SETTINGS)[K]['schema']> };

/** A setting that cannot be used; `message` names it, says what is wrong and what to write. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

/**
 * The settings from flags (first), the environment (second) and the defaults.
 * @throws ConfigError that names every wrong setting
 */
export function loadConfig(
  flags: Partial<Record<SettingName, string | undefined>> = {},
  env: Readonly<Record<string, string | undefined>> = process.env,
): Config {
  const values: Record<string, unknown> = {};
  const wrong: string[] = [];
  for (const [name, { schema, fallback }] of Object.entries(SETTINGS) as [SettingName, Setting<z.ZodType>][]) {
    const given = flags[name] ?? (env[name] === '' ? undefined : env[name]);
    const parsed = schema.safeParse(given ?? fallback);
    if (parsed.success) values[name] = parsed.data;
    else
      wrong.push(`${name}=${JSON.stringify(given)}: ${parsed.error.issues.map((issue) => issue.message).join('; ')}`);
  }
  if (wrong.length > 0) throw new ConfigError(wrong.join('\n'));
  return Object.freeze(values) as Config;
}

/** The worker's S3 settings as a source wants them. */
export function s3Connection(config: Config): S3Connection {
  return {
    ...(config.S3_ENDPOINT === undefined ? {} : { endpoint: config.S3_ENDPOINT }),
    region: config.AWS_REGION ?? config.AWS_DEFAULT_REGION ?? 'us-east-1',
    forcePathStyle: config.S3_FORCE_PATH_STYLE ?? config.S3_ENDPOINT !== undefined,
    connectTimeout: config.UNPACK_S3_CONNECT_TIMEOUT,
    idleTimeout: config.UNPACK_S3_IDLE_TIMEOUT,
    maxResumes: config.UNPACK_S3_RESUMES,
  };
}

/** The snapshot store as one that layers are written to. */
export function storeToWrite(config: Config): StoreOptions {
  return { root: config.UNPACK_ROOT, type: config.UNPACK_SNAPSHOTTER, ownership: config.UNPACK_OWNERSHIP };
}

/** The limits on one layer. */
export function layerLimits(config: Config): LayerLimits {
  return {
    uncompressedBytes: config.UNPACK_MAX_LAYER_BYTES,
    entries: config.UNPACK_MAX_LAYER_ENTRIES,
    entryMetadataBytes: config.UNPACK_MAX_ENTRY_METADATA,
    rememberedBytes: config.UNPACK_MAX_LAYER_MEMORY,
  };
}
