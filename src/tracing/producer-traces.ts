import { SpanKind, SpanStatusCode } from '@opentelemetry/api';
import type { JobHandle, TraceContext } from '../queue/producer.ts';
import { maskSecrets } from '../secrets.ts';
import type { TraceSettings } from './otel-variables.ts';
import { contextOf, headersOf } from './trace-context.ts';
import { startTracing } from './tracing.ts';

/** The traces of `unpackd enqueue`. Loading this file loads OpenTelemetry. */
export interface ProducerTraces {
  /**
   * Makes the span `send QUEUE` around a call that adds one job.
   * @param parent the span of the program that has started this one
   * @param add adds the job, with the span that the worker's spans are children of
   * @throws as `add`
   */
  send(parent: TraceContext | undefined, add: (trace: TraceContext) => Promise<JobHandle>): Promise<JobHandle>;
  /** Sends the span; takes two seconds at most. */
  close(): Promise<void>;
}

export interface ProducerTraceOptions {
  readonly settings: TraceSettings;
  readonly queue: string;
  /** The name of this process. */
  readonly instance: string;
  readonly log: (level: 'info' | 'warn', sentence: string) => void;
}

export function startProducerTraces({ settings, queue, instance, log }: ProducerTraceOptions): ProducerTraces {
  const { tracer, close } = startTracing({ settings, service: 'unpackd-producer', instance, log });
  return {
    async send(parent, add) {
      // names of the semantic conventions for messaging
      const attributes = {
        'messaging.system': 'bullmq',
        'messaging.operation.name': 'send',
        'messaging.operation.type': 'send',
        'messaging.destination.name': queue,
      };
      const span = tracer.startSpan(`send ${queue}`, { kind: SpanKind.PRODUCER, attributes }, contextOf(parent));
      try {
        const job = await add(headersOf(span.spanContext()));
        span.setAttributes({ 'messaging.message.id': job.id, 'unpackd.deduplicated': job.deduplicated });
        return job;
      } catch (error) {
        const message = maskSecrets(error instanceof Error ? error.message : String(error));
        span.setAttribute('error.type', error instanceof Error ? error.name : 'Error');
        span.setStatus({ code: SpanStatusCode.ERROR, message });
        throw error;
      } finally {
        span.end();
      }
    },
    close,
  };
}
