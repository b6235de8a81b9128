import {
  type Attributes,
  type Context,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  trace,
} from '@opentelemetry/api';
import type { ImageState, LayerState } from '../image/progress.ts';
import type { EndedRun, WorkerObserver } from '../queue/worker-observer.ts';
import type { Log } from '../rootfs/applier.ts';
import { maskSecrets } from '../secrets.ts';
import type { TraceSettings } from './otel-variables.ts';
import { contextOf } from './trace-context.ts';
import { startTracing } from './tracing.ts';

/** The traces of a worker process. Loading this file loads OpenTelemetry. */
export interface WorkerTraces {
  /** Makes a span for each run of a job. */
  readonly jobs: WorkerObserver;
  /** Sends the last spans; takes two seconds at most. */
  close(): Promise<void>;
}

export interface WorkerTraceOptions {
  readonly settings: TraceSettings;
  /** The name of the worker. */
  readonly worker: string;
  readonly queue: string;
  readonly log: Log;
}

export function startWorkerTraces({ settings, worker, queue, log }: WorkerTraceOptions): WorkerTraces {
  const { tracer, close } = startTracing({ settings, service: 'unpackd-worker', instance: worker, log });
  return { jobs: jobSpans({ tracer, queue }), close };
}

export interface JobSpanOptions {
  readonly tracer: Tracer;
  readonly queue: string;
}

/**
 * Makes the spans of jobs, when a run ends:
 *
 *     process QUEUE            the run, a child of the span that is in the job
 *     ├─ resolve               tag, index, manifest and config
 *     └─ layer                 one for each layer that was applied, or that failed
 *        ├─ wait for thread
 *        ├─ fetch, inflate, write
 *        ├─ wait for layers below
 *        └─ commit
 *
 * All times are known at the end of the run, so nothing has to be kept while it runs. The spans have digests, sizes and codes,
 * the name of the image and the sentence of a failure. Secrets in these texts are masked, and there are no URLs of blobs.
 */
export function jobSpans({ tracer, queue }: JobSpanOptions): WorkerObserver {
  return {
    runEnds(run) {
      const ended = Date.now();
      const span = tracer.startSpan(
        `process ${queue}`,
        { kind: SpanKind.CONSUMER, startTime: run.runStarted, attributes: runAttributes(run, queue) },
        parentOf(run.job.traceContext),
      );
      if (span.isRecording()) {
        const parent = trace.setSpan(ROOT_CONTEXT, span);
        const phase = (name: string, from: number, to: number, attributes: Attributes = {}): void => {
          tracer.startSpan(name, { startTime: from, attributes }, parent).end(to);
        };
        if (run.resolveMs !== undefined) phase('resolve', run.runStarted, run.runStarted + run.resolveMs);
        for (const image of run.images) addLayers(tracer, parent, run, image, ended);
        const { end } = run;
        if (end.kind === 'failed' || end.kind === 'retried') {
          span.setStatus({ code: SpanStatusCode.ERROR, message: maskSecrets(end.message) });
        }
      }
      span.end(ended);
    },
  };
}

/** The span of the producer. BullMQ's clients put it into the job as JSON of HTTP headers: `{"traceparent": "00-…"}`. */
function parentOf(metadata: string | undefined): Context {
  if (metadata === undefined) return ROOT_CONTEXT;
  try {
    return contextOf(JSON.parse(metadata));
  } catch {
    return ROOT_CONTEXT;
  }
}

/** Names of the semantic conventions for messaging, and our own. */
function runAttributes({ job, end, attempt, images, started, ready }: EndedRun, queue: string): Attributes {
  const layers = images.flatMap((image) => image.layers);
  return {
    'messaging.system': 'bullmq',
    'messaging.operation.name': 'process',
    'messaging.operation.type': 'process',
    'messaging.destination.name': queue,
    'messaging.message.id': job.id,
    ...(job.image === undefined ? {} : { 'unpackd.image': maskSecrets(job.image) }),
    'unpackd.attempt': attempt,
    'unpackd.outcome': end.kind,
    ...(attempt === 1 ? { 'unpackd.wait_ms': Math.max(0, started - ready) } : {}),
    ...(end.kind === 'given back' ? { 'unpackd.given_back': end.why } : {}),
    ...(end.kind === 'failed' || end.kind === 'retried' ? { 'error.type': end.code } : {}),
    'unpackd.layers': layers.length,
    'unpackd.layers.applied': layers.filter(({ phase }) => phase === 'applied').length,
    'unpackd.layers.existed': layers.filter(({ phase }) => phase === 'existed').length,
  };
}

function addLayers(tracer: Tracer, parent: Context, run: EndedRun, image: ImageState, ended: number): void {
  const { end, lookedUp } = run;
  const failed = end.kind === 'failed' || end.kind === 'retried' ? end.layerIndex : undefined;
  for (const [index, layer] of image.layers.entries()) {
    const attributes = layerAttributes(image, layer, index);
    if (layer.timeline !== undefined) addLayer(tracer, parent, lookedUp, layer, attributes);
    else if (index === failed && layer.phase !== 'existed') {
      const startTime = lookedUp + (run.resolveMs ?? 0);
      const span = tracer.startSpan('layer', { startTime, attributes }, parent);
      span.setStatus({ code: SpanStatusCode.ERROR });
      span.end(ended);
    }
  }
}

function addLayer(
  tracer: Tracer,
  parent: Context,
  lookedUp: number,
  { timeline, timings }: LayerState,
  attributes: Attributes,
): void {
  if (timeline === undefined) return;
  const at = (milliseconds: number): number => lookedUp + milliseconds;
  const span = tracer.startSpan('layer', { startTime: at(timeline.queuedMs), attributes }, parent);
  const inside = trace.setSpan(ROOT_CONTEXT, span);
  const phase = (name: string, from: number, to: number, more: Attributes = {}): void => {
    // differences below a tenth of a millisecond are not measured
    if (to - from < 0.1) return;
    tracer.startSpan(name, { startTime: at(from), attributes: more }, inside).end(at(to));
  };
  phase('wait for thread', timeline.queuedMs, timeline.startedMs);
  // the thread takes turns with these three; each is one span as long as its sum, one after the other
  const sum = { 'unpackd.interleaved': true };
  let from = timeline.startedMs;
  for (const [name, milliseconds] of [
    ['fetch', timings?.fetchMs ?? 0],
    ['inflate', timings?.decompressMs ?? 0],
    ['write', timings?.writeMs ?? 0],
  ] as const) {
    const to = Math.min(from + milliseconds, timeline.unpackedMs);
    phase(name, from, to, sum);
    from = to;
  }
  phase('wait for layers below', timeline.unpackedMs, timeline.committingMs);
  phase('commit', timeline.committingMs, timeline.committedMs);
  span.end(at(timeline.committedMs));
}

function layerAttributes({ platform }: ImageState, layer: LayerState, index: number): Attributes {
  return {
    'unpackd.layer.index': index,
    'unpackd.layer.blob': layer.blobDigest,
    'unpackd.layer.chain_id': layer.chainId,
    'unpackd.layer.state': layer.phase,
    'unpackd.layer.blob_bytes': layer.size,
    'unpackd.layer.fetched_bytes': layer.fetched,
    'unpackd.layer.tar_bytes': layer.unpacked,
    'unpackd.layer.entries': layer.entries,
    ...(platform === undefined ? {} : { 'unpackd.platform': platform }),
  };
}
