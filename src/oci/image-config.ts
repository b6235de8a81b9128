import { UnpackError } from '../errors.ts';
import { readPlatform } from './descriptor.ts';
import { type DiffId, isDigest } from './digest.ts';
import { type FieldNames, fieldNames, JsonFields, JsonReading, readJson, shown } from './json-fields.ts';
import type { Platform } from './platform.ts';

/** Maximum size of a config in bytes. It is larger than for a manifest, because the history in a config can be long. */
export const CONFIG_LIMIT = 8 * 1024 * 1024;

/**
 * How a container of an image runs: the checked fields of `config` in the image's config (OCI image spec, config.md). Fields that
 * are missing or empty are absent.
 */
export interface RuntimeConfig {
  readonly entrypoint?: readonly string[];
  readonly cmd?: readonly string[];
  /** `NAME=VALUE`. */
  readonly env?: readonly string[];
  /** `user`, `uid`, `user:group`, `uid:gid`, `uid:group` or `user:gid`. */
  readonly user?: string;
  readonly workingDir?: string;
  readonly labels?: Readonly<Record<string, string>>;
  /** `port`, `port/tcp` or `port/udp`. */
  readonly exposedPorts?: readonly string[];
  /** Paths in the container. */
  readonly volumes?: readonly string[];
  /** For example `SIGTERM`. */
  readonly stopSignal?: string;
}

/** The fields of an image's config that unpackd uses (OCI image spec, config.md). */
export interface ImageConfig {
  /** Absent in some configs of old tools. */
  readonly platform?: Platform;
  /** Bottom-most first. */
  readonly diffIds: readonly DiffId[];
  /** Whether the config has the field `rootfs`. */
  readonly hasRootfs: boolean;
  readonly runtime: RuntimeConfig;
  /** Deviations from the specification, and what each was treated as. */
  readonly warnings: readonly string[];
}

/** Maximum size of a RuntimeConfig in bytes of JSON, because each result has it. */
export const RUNTIME_LIMIT = 32 * 1024;

const CONFIG = fieldNames('rootfs');
const ROOTFS = fieldNames('type', 'diff_ids');
const OUTER = fieldNames('config');
const RUNTIME = fieldNames(
  'Entrypoint',
  'Cmd',
  'Env',
  'User',
  'WorkingDir',
  'Labels',
  'ExposedPorts',
  'Volumes',
  'StopSignal',
);

/**
 * Parses an image's config. Strict about the DiffIDs, lenient about all other fields.
 * @param bytes verified by the caller
 * @param what the name of the config in messages
 * @throws UnpackError MANIFEST_INVALID
 */
export function parseConfig(bytes: Uint8Array, what: string): ImageConfig {
  const reading = new JsonReading(what);
  const value = readJson(bytes, reading);
  const rootfs = new JsonFields(value, CONFIG, reading).get('rootfs');
  const platform = readPlatform(value, reading, '');
  return {
    ...(platform === undefined ? {} : { platform }),
    diffIds: rootfs === undefined ? [] : diffIdsOf(rootfs, reading),
    hasRootfs: rootfs !== undefined,
    runtime: withinLimit(runtimeOf(value, reading), reading),
    warnings: reading.warnings,
  };
}

function diffIdsOf(rootfs: unknown, reading: JsonReading): DiffId[] {
  const fields = new JsonFields(rootfs, ROOTFS, reading, 'rootfs');
  const type = fields.get('type');
  if (type !== 'layers') {
    reading.warn(`rootfs.type is ${type === undefined ? 'missing' : shown(type)}; treated as "layers"`);
  }
  return fields.list('diff_ids').map((digest, index): DiffId => {
    if (typeof digest === 'string' && isDigest(digest)) return digest as string as DiffId; // `as`: checked, and these are digests of tars
    const expected = 'a digest (sha256 or sha512, in lower-case hexadecimal)';
    throw reading.unexpected(`rootfs.diff_ids[${index}]`, expected, digest);
  });
}

/**
 * How a container of an image runs, whole, from the JSON value of the image's config. Unlike `parseConfig`, it has no limit
 * of size. Fields that do not have their type are left out.
 */
export function runtimeConfig(config: unknown): RuntimeConfig {
  return runtimeOf(config, new JsonReading('config'));
}

/** A field that does not have its type is left out with a warning, because unpacking does not need it. */
function runtimeOf(value: unknown, reading: JsonReading): RuntimeConfig {
  const config = lenientFields(value, OUTER, reading, '')?.get('config');
  const fields = config === undefined ? undefined : lenientFields(config, RUNTIME, reading, 'config');
  if (fields === undefined) return {};
  return {
    ...field('entrypoint', texts(fields, 'Entrypoint')),
    ...field('cmd', texts(fields, 'Cmd')),
    ...field('env', texts(fields, 'Env')),
    ...field('user', fields.label('User')),
    ...field('workingDir', fields.label('WorkingDir')),
    ...field('labels', labels(fields)),
    ...field('exposedPorts', keys(fields, 'ExposedPorts')),
    ...field('volumes', keys(fields, 'Volumes')),
    ...field('stopSignal', fields.label('StopSignal')),
  };
}

/** A property, unless its value is missing or empty. */
function field<Name extends string, Value>(name: Name, value: Value | undefined): { [name in Name]?: Value } {
  const isEmpty =
    value === undefined || (typeof value === 'object' ? Object.keys(value ?? {}).length === 0 : value === '');
  return (isEmpty ? {} : { [name]: value }) as { [name in Name]?: Value }; // `as`: a computed name loses its type
}

/** As JsonFields. @returns `undefined`, with a warning, if the value is not an object, or has a field in two spellings */
function lenientFields(value: unknown, names: FieldNames, reading: JsonReading, path: string): JsonFields | undefined {
  try {
    return new JsonFields(value, names, reading, path);
  } catch (error) {
    if (!(error instanceof UnpackError)) throw error;
    reading.warnings.push(`${error.message}; config was left out`);
    return undefined;
  }
}

/** A list of texts. */
function texts(fields: JsonFields, name: string): readonly string[] | undefined {
  const value = fields.get(name);
  if (value === undefined) return undefined;
  if (Array.isArray(value) && value.every((one) => typeof one === 'string')) return value;
  fields.reading.warn(`${fields.path(name)} is not a list of texts; left out`);
  return undefined;
}

/** The names of an object that stands for a set. Its values mean nothing. */
function keys(fields: JsonFields, name: string): string[] | undefined {
  const value = object(fields, name);
  return value && Object.keys(value);
}

/** An object of texts. A label with another value is left out. */
function labels(fields: JsonFields): Record<string, string> | undefined {
  const value = object(fields, 'Labels');
  if (value === undefined) return undefined;
  const entries = Object.entries(value).filter((entry): entry is [string, string] => typeof entry[1] === 'string');
  const others = Object.keys(value).length - entries.length;
  if (others > 0) fields.reading.warn(`${fields.path('Labels')} has ${others} values that are not texts; left out`);
  return Object.fromEntries(entries);
}

function object(fields: JsonFields, name: string): object | undefined {
  const value = fields.get(name);
  if (value === undefined) return undefined;
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  fields.reading.warn(`${fields.path(name)} is ${shown(value)}; left out`);
  return undefined;
}

/** Labels can be long, so they are left out first. */
function withinLimit(runtime: RuntimeConfig, reading: JsonReading): RuntimeConfig {
  const sizeOf = (value: RuntimeConfig) => Buffer.byteLength(JSON.stringify(value));
  if (sizeOf(runtime) <= RUNTIME_LIMIT) return runtime;
  const { labels, ...others } = runtime;
  const fits = sizeOf(others) <= RUNTIME_LIMIT;
  const what = fits ? 'the labels are' : 'config is';
  reading.warn(`${what} too long for the result, which takes ${RUNTIME_LIMIT / 1024} KiB; left out there`);
  return fits ? others : {};
}
