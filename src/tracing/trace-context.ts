import { type Context, ROOT_CONTEXT, type SpanContext, TraceFlags, trace } from '@opentelemetry/api';
import { W3CTraceContextPropagator } from '@opentelemetry/core';

/**
 * The span of another program, as the headers of W3C Trace Context: read from a job or from the environment, and written into a
 * job.
 */

/** @returns the root context for anything that is no trace, because a job must not fail for its trace */
export function contextOf(headers: unknown): Context {
  if (typeof headers !== 'object' || headers === null) return ROOT_CONTEXT;
  return new W3CTraceContextPropagator().extract(ROOT_CONTEXT, headers, {
    keys: Object.keys,
    get: (carrier, key) => {
      const value: unknown = Reflect.get(carrier, key);
      return typeof value === 'string' ? value : undefined;
    },
  });
}

export function headersOf(span: SpanContext): { traceparent: string; tracestate?: string } {
  const headers: Record<string, string> = {};
  new W3CTraceContextPropagator().inject(trace.setSpanContext(ROOT_CONTEXT, span), headers, {
    set: (carrier, key, value) => {
      carrier[key] = value;
    },
  });
  const { traceparent = `00-${span.traceId}-${span.spanId}-0${TraceFlags.NONE}`, tracestate } = headers;
  return tracestate === undefined ? { traceparent } : { traceparent, tracestate };
}
