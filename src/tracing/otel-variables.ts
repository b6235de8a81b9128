import { readFileSync } from 'node:fs';
import { ConfigError } from '../errors.ts';
import { type Proxies, ProxySettingError, proxiesOf } from '../http/proxy.ts';
import { addSecret } from '../secrets.ts';

/**
 * The standard variables of OpenTelemetry that decide whether and what is traced (opentelemetry.io, "Environment Variable
 * Specification"). The exporter reads URL, headers, time limit and compression of OTEL_EXPORTER_OTLP_… itself. This file loads
 * nothing of OpenTelemetry, so a process without traces does not either.
 */
export interface TraceSettings {
  /** Without credentials, for the log. */
  readonly endpoint: string;
  readonly serviceName: string | undefined;
  readonly sampler: { readonly kind: 'always_on' | 'always_off' | 'traceidratio'; readonly isParentBased: boolean };
  /** How the collector is reached with TLS. Absent for an `http:` URL. */
  readonly tls?: TraceTls | undefined;
  /** The share of traces of `traceidratio`, 0 to 1. */
  readonly ratio: number;
  readonly batch: {
    /** Milliseconds between two exports. */
    readonly scheduledDelayMillis: number;
    readonly maxQueueSize: number;
    readonly maxExportBatchSize: number;
    /** Time limit in milliseconds for one export. */
    readonly exportTimeoutMillis: number;
  };
}

/** Contents of PEM files, and the proxies of the environment. */
export interface TraceTls {
  readonly ca?: Buffer | undefined;
  readonly cert?: Buffer | undefined;
  readonly key?: Buffer | undefined;
  readonly proxies: Proxies | undefined;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** @returns `undefined` if nothing is traced @throws ConfigError for a value that cannot be used */
export function traceSettings(env: Environment): TraceSettings | undefined {
  const text = (name: string): string | undefined => (env[name]?.trim() === '' ? undefined : env[name]?.trim());
  const traces = text('OTEL_EXPORTER_OTLP_TRACES_ENDPOINT');
  const endpoint = traces ?? text('OTEL_EXPORTER_OTLP_ENDPOINT');
  const isOff = text('OTEL_SDK_DISABLED')?.toLowerCase() === 'true' || text('OTEL_TRACES_EXPORTER') === 'none';
  if (endpoint === undefined || isOff) return undefined;
  const name = traces === undefined ? 'OTEL_EXPORTER_OTLP_ENDPOINT' : 'OTEL_EXPORTER_OTLP_TRACES_ENDPOINT';
  for (const headers of ['OTEL_EXPORTER_OTLP_HEADERS', 'OTEL_EXPORTER_OTLP_TRACES_HEADERS']) {
    for (const pair of (text(headers) ?? '').split(',')) addSecret(decoded(pair.slice(pair.indexOf('=') + 1).trim()));
  }
  requireProtocol(text('OTEL_EXPORTER_OTLP_TRACES_PROTOCOL') ?? text('OTEL_EXPORTER_OTLP_PROTOCOL'));
  const { kind, isParentBased } = samplerOf(text('OTEL_TRACES_SAMPLER') ?? 'parentbased_always_on');
  const number = (variable: string, fallback: number, least: number): number =>
    numberOf(variable, text(variable), fallback, least);
  // an image of many layers has hundreds of spans, which come at once when its job ends
  const maxQueueSize = number('OTEL_BSP_MAX_QUEUE_SIZE', 8192, 1);
  return {
    endpoint: displayUrl(name, endpoint),
    ...(URL.parse(endpoint)?.protocol === 'https:' ? { tls: tlsOf(env, text) } : {}),
    serviceName: text('OTEL_SERVICE_NAME'),
    sampler: { kind, isParentBased },
    ratio: Math.min(1, number('OTEL_TRACES_SAMPLER_ARG', 1, 0)),
    batch: {
      maxQueueSize,
      scheduledDelayMillis: number('OTEL_BSP_SCHEDULE_DELAY', 5000, 1),
      maxExportBatchSize: Math.min(maxQueueSize, number('OTEL_BSP_MAX_EXPORT_BATCH_SIZE', 512, 1)),
      exportTimeoutMillis: number('OTEL_BSP_EXPORT_TIMEOUT', 30_000, 1),
    },
  };
}

/** The exporter itself would ignore a file that cannot be read. @throws ConfigError */
function tlsOf(env: Environment, text: (name: string) => string | undefined): TraceTls {
  const file = (kind: string): Buffer | undefined => {
    for (const name of [`OTEL_EXPORTER_OTLP_TRACES_${kind}`, `OTEL_EXPORTER_OTLP_${kind}`]) {
      const path = text(name);
      if (path === undefined) continue;
      try {
        return readFileSync(path);
      } catch (error) {
        throw new ConfigError(
          `${name}=${path} can't be read: ${error instanceof Error ? error.message : error}; name a PEM file`,
        );
      }
    }
    return undefined;
  };
  try {
    return {
      ca: file('CERTIFICATE'),
      cert: file('CLIENT_CERTIFICATE'),
      key: file('CLIENT_KEY'),
      proxies: proxiesOf(env),
    };
  } catch (error) {
    throw error instanceof ProxySettingError ? new ConfigError(error.message) : error;
  }
}

function requireProtocol(protocol: string | undefined): void {
  if (protocol === undefined || protocol === 'http/protobuf') return;
  throw new ConfigError(
    `OTEL_EXPORTER_OTLP_PROTOCOL=${JSON.stringify(protocol)}: traces are sent only as http/protobuf: set http/protobuf, and the port of the collector for HTTP (4318)`,
  );
}

function samplerOf(name: string): TraceSettings['sampler'] {
  const [, parent, kind] = /^(parentbased_)?(always_on|always_off|traceidratio)$/.exec(name) ?? [];
  if (kind === 'always_on' || kind === 'always_off' || kind === 'traceidratio') {
    return { kind, isParentBased: parent !== undefined };
  }
  throw new ConfigError(
    `OTEL_TRACES_SAMPLER=${JSON.stringify(name)}: use always_on, always_off or traceidratio, with or without parentbased_ before it`,
  );
}

function numberOf(variable: string, text: string | undefined, fallback: number, least: number): number {
  if (text === undefined) return fallback;
  const number = Number(text);
  if (Number.isFinite(number) && number >= least) return number;
  throw new ConfigError(`${variable}=${JSON.stringify(text)}: write a number of at least ${least}`);
}

function displayUrl(name: string, text: string): string {
  const url = URL.parse(text);
  if (url?.protocol !== 'http:' && url?.protocol !== 'https:') {
    throw new ConfigError(`${name}: it is not the URL of a collector: write http://HOST:4318 or https://HOST:4318`);
  }
  addSecret(decoded(url.password));
  return url.origin;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
