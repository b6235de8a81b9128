import { setTimeout as sleep } from 'node:timers/promises';
import type { Tracer } from '@opentelemetry/api';
import { type ExportResult, ExportResultCode } from '@opentelemetry/core';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { detectResources, envDetector, resourceFromAttributes } from '@opentelemetry/resources';
import {
  AlwaysOffSampler,
  AlwaysOnSampler,
  BatchSpanProcessor,
  ParentBasedSampler,
  type ReadableSpan,
  type Sampler,
  type SpanExporter,
  TraceIdRatioBasedSampler,
  TracerProvider,
} from '@opentelemetry/sdk-trace';
import { errnoOf } from '../errno.ts';
import { tunnelAgent } from '../http/proxy-agent.ts';
import { version } from '../package.ts';
import { maskSecrets } from '../secrets.ts';
import type { TraceSettings } from './otel-variables.ts';

/** The spans of one process on their way to a collector. */
export interface Tracing {
  readonly tracer: Tracer;
  /** Sends what is left, for CLOSE_LIMIT at most. */
  close(): Promise<void>;
}

export interface TracingOptions {
  readonly settings: TraceSettings;
  /** The name of the service, if OTEL_SERVICE_NAME does not set it. */
  readonly service: string;
  /** `service.instance.id`: the name of the worker. */
  readonly instance: string;
  /** Gets one sentence when spans can no longer be sent, and one when they can again. */
  readonly log: (level: 'info' | 'warn', sentence: string) => void;
}

/** Time limit in milliseconds for a tunnel through a proxy. */
const CONNECT_LIMIT = 10_000;
/** Time limit in milliseconds for sending the last spans. Supervisors wait longer before they kill a process. */
const CLOSE_LIMIT = 2000;

/**
 * Starts to export spans by OTLP over HTTP. Nothing global of OpenTelemetry is set. Spans are collected in memory and sent in
 * the background; if the collector does not answer, the oldest ones stay until the queue is full, and further spans are dropped.
 * No caller ever waits for the collector.
 */
export function startTracing({ settings, service, instance, log }: TracingOptions): Tracing {
  const exporter = new ReportingExporter(otlpExporter(settings), settings.endpoint, log);
  const ours = resourceFromAttributes({
    'service.name': service,
    'service.version': version,
    'service.instance.id': instance,
    'host.name': instance.split(':')[0] ?? instance,
  });
  const provider = new TracerProvider({
    // what the environment sets comes last, because it takes precedence
    resource: ours.merge(detectResources({ detectors: [envDetector] })),
    sampler: samplerOf(settings),
    spanProcessors: [new BatchSpanProcessor({ exporter, ...settings.batch })],
  });
  return {
    tracer: provider.getTracer('unpackd', version),
    async close() {
      const timer = new AbortController();
      const late = sleep(CLOSE_LIMIT, undefined, { signal: timer.signal, ref: false }).catch(() => {});
      await Promise.race([provider.shutdown().catch(() => {}), late]);
      timer.abort();
    },
  };
}

function otlpExporter({ tls }: TraceSettings): OTLPTraceExporter {
  if (tls === undefined) return new OTLPTraceExporter();
  const { ca, cert, key, proxies = { except: [] } } = tls;
  const agent = tunnelAgent({ keepAlive: true, ca, cert, key }, proxies, CONNECT_LIMIT);
  return new OTLPTraceExporter({ httpAgentOptions: () => agent });
}

function samplerOf({ sampler: { kind, isParentBased }, ratio }: TraceSettings): Sampler {
  const samplers = {
    always_on: () => new AlwaysOnSampler(),
    always_off: () => new AlwaysOffSampler(),
    traceidratio: () => new TraceIdRatioBasedSampler(ratio),
  };
  const root = samplers[kind]();
  return isParentBased ? new ParentBasedSampler({ root }) : root;
}

/** Logs once when spans cannot be sent. The SDK itself reports every failure to a global handler, which prints an error. */
class ReportingExporter implements SpanExporter {
  readonly #exporter: SpanExporter;
  readonly #endpoint: string;
  readonly #log: TracingOptions['log'];
  #isDown = false;

  constructor(exporter: SpanExporter, endpoint: string, log: TracingOptions['log']) {
    this.#exporter = exporter;
    this.#endpoint = endpoint;
    this.#log = log;
  }

  export(spans: ReadableSpan[], done: (result: ExportResult) => void): void {
    this.#exporter.export(spans, ({ code, error }) => {
      this.#report(code === ExportResultCode.SUCCESS ? undefined : (error ?? new Error('it refuses the spans')));
      done({ code: ExportResultCode.SUCCESS });
    });
  }

  shutdown(): Promise<void> {
    return this.#exporter.shutdown();
  }

  async forceFlush(): Promise<void> {
    await this.#exporter.forceFlush?.();
  }

  #report(error: Error | undefined): void {
    if ((error !== undefined) === this.#isDown) return;
    this.#isDown = error !== undefined;
    if (error === undefined) this.#log('info', `traces are sent again to ${this.#endpoint}`);
    else {
      const why = maskSecrets(errnoOf(error) ?? error.message);
      this.#log('warn', `traces cannot be sent to ${this.#endpoint}: ${why}; jobs are not affected`);
    }
  }
}
