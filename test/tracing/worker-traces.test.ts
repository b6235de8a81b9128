import assert from 'node:assert/strict';
import { AsyncLocalStorage } from 'node:async_hooks';
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import {
  type Context,
  type ContextManager,
  context,
  propagation,
  ROOT_CONTEXT,
  type Span,
  trace,
} from '@opentelemetry/api';
import { W3CTraceContextPropagator } from '@opentelemetry/core';
import { TracerProvider } from '@opentelemetry/sdk-trace';
import { Queue } from 'bullmq';
import { BullMQOtel } from 'bullmq-otel';
import { listen } from '../../dev/local-programs.ts';
import { loadConfig } from '../../src/config.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import { runCli } from '../cli/run-cli.ts';
import { type Stage, stage } from '../e2e/stage.ts';
import { eventually } from '../support/eventually.ts';
import { imageOf, layerOf } from '../support/layout.ts';
import { file, tar } from '../support/tar.ts';
import { type CollectedSpan, type Collector, startCollector } from './otlp-collector.ts';

/** A real worker process, with a collector of the tests' own. */
const stack = new AsyncDisposableStack();
after(() => stack.disposeAsync());
let parts: Stage;
let collector: Collector;
/** Prints which of the modules that are loaded only if needed are loaded. */
const SPY = `--import=data:text/javascript,${encodeURIComponent(
  "import{registerHooks}from'node:module';registerHooks({resolve(s,c,n){if(/^(@opentelemetry|prom-client)/.test(s))console.error('LOADED '+s);return n(s,c)}})",
)}`;
const base = { UNPACK_OWNERSHIP: 'squash', NODE_OPTIONS: SPY };
const CONSUMER = 5;
const ERROR = 2;

before(async () => {
  parts = stack.use(await stage({ type: 'native' }));
  collector = await startCollector();
  stack.defer(() => collector.close());
  await parts.push('app', { app: imageOf(layers(3)) });
});

function layers(count: number) {
  return Array.from({ length: count }, (_, number) => layerOf(tar(file(`${number}`, randomBytes(3_000_000)))));
}

function traced(more: Readonly<Record<string, string>> = {}) {
  return {
    ...base,
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.endpoint,
    OTEL_BSP_SCHEDULE_DELAY: '50',
    UNPACK_WORKER_NAME: 'node-7:1',
    ...more,
  };
}

const isChildOf = (parent: CollectedSpan) => (span: CollectedSpan) => span.parentId === parent.spanId;

async function spanOf(job: string, attempt = 1): Promise<CollectedSpan> {
  const isIt = ({ attributes }: CollectedSpan) =>
    attributes['messaging.message.id'] === job && attributes['unpackd.attempt'] === attempt;
  return eventually('the span of the job is exported', () => collector.spans.find(isIt));
}

test('a job has a span below that of its producer, with layers and their phases', async () => {
  const worker = await parts.worker(traced({ OTEL_RESOURCE_ATTRIBUTES: 'deployment.environment.name=test' }));
  context.setGlobalContextManager(new AsyncContexts());
  trace.setGlobalTracerProvider(new TracerProvider());
  propagation.setGlobalPropagator(new W3CTraceContextPropagator());
  const queue = new UnpackQueue(loadConfig({ REDIS_URL: parts.redis.url }, {}), {
    telemetry: new BullMQOtel({ tracerName: 'mirror' }),
  });
  stack.defer(() => queue.close());
  const mirror = trace.getTracer('mirror').startSpan('mirror an image');
  const adding = context.with(trace.setSpan(context.active(), mirror), () => queue.add(parts.payload('app')));
  const job = await adding;
  await queue.wait(job);

  const run = await spanOf(job.id);
  assert.equal(run.name, 'process image-unpack');
  assert.equal(run.kind, CONSUMER);
  assert.equal(run.traceId, idOf(mirror), 'the trace of the producer');
  assert.notEqual(run.parentId, '');
  assert.equal(run.resource['service.name'], 'unpackd-worker');
  assert.equal(run.resource['service.instance.id'], 'node-7:1');
  assert.equal(run.resource['deployment.environment.name'], 'test');
  const { attributes } = run;
  assert.equal(attributes['unpackd.image'], 'registry.example/app:app');
  assert.equal(attributes['unpackd.outcome'], 'completed');
  assert.deepEqual([attributes['unpackd.layers'], attributes['unpackd.layers.applied']], [3, 3]);

  const children = collector.spans.filter(isChildOf(run));
  assert.deepEqual(children.map(({ name }) => name).sort(), ['layer', 'layer', 'layer', 'resolve']);
  for (const layer of children.filter(({ name }) => name === 'layer')) {
    assertInside(layer, run);
    assert.ok(Number(layer.attributes['unpackd.layer.fetched_bytes']) > 2_900_000);
    const phases = collector.spans.filter(isChildOf(layer));
    const names = phases.map(({ name }) => name);
    for (const name of ['fetch', 'write', 'commit']) assert.ok(names.includes(name), `${name} is in ${names}`);
    for (const phase of phases) assertInside(phase, layer);
    const took = phases.reduce((sum, phase) => sum + (phase.end - phase.start), 0n);
    const whole = layer.end - layer.start;
    // phases below a tenth of a millisecond are left out, and times are rounded to a tenth
    assert.ok(took <= whole + 1_000_000n && took >= whole - 1_000_000n, `${took} of ${whole}`);
  }
  worker.kill('SIGTERM');
  assert.equal(await worker.ended, 0);
});

test('a failed attempt and its retry are siblings, with the code, and the layer that failed', async () => {
  const damaged = imageOf(layers(2));
  await parts.push('damaged', { app: damaged }, [damaged.layers[1]?.blob.digest ?? '']);
  const worker = await parts.worker(traced());
  const traceparent = `00-${'ab'.repeat(16)}-${'cd'.repeat(8)}-01`;
  const job = await parts.queue.add(parts.payload('damaged'), { attempts: 2, trace: { traceparent } });
  await assert.rejects(parts.queue.wait(job), { code: 'BLOB_NOT_FOUND' });
  const runs = [await spanOf(job.id, 1), await spanOf(job.id, 2)];
  assert.deepEqual(
    runs.map(({ traceId, parentId }) => ({ traceId, parentId })),
    runs.map(() => ({ traceId: 'ab'.repeat(16), parentId: 'cd'.repeat(8) })),
  );
  assert.deepEqual(
    runs.map(({ attributes }) => [attributes['unpackd.outcome'], attributes['error.type']]),
    [
      ['retried', 'BLOB_NOT_FOUND'],
      ['failed', 'BLOB_NOT_FOUND'],
    ],
  );
  for (const run of runs) {
    assert.equal(run.status, ERROR);
    assert.match(run.message, /layer 2 of 2/);
    const failed = collector.spans.filter(isChildOf(run)).filter(({ status }) => status === ERROR);
    assert.deepEqual(
      failed.map(({ attributes }) => attributes['unpackd.layer.index']),
      [1],
    );
  }
  worker.kill('SIGTERM');
  await worker.ended;
});

test('a job whose trace is no trace is done, with a trace of its own', async () => {
  const worker = await parts.worker(traced());
  const queue = new Queue('image-unpack', { connection: { url: parts.redis.url } });
  stack.defer(() => queue.close());
  for (const metadata of ['', '{', '"text"', '{"traceparent":7}', '{"traceparent":"00-zz-zz-01"}']) {
    const { id = '' } = await queue.add('unpack', parts.payload('app'), { telemetry: { metadata } });
    await parts.queue.wait(id);
    assert.equal((await spanOf(id)).parentId, '', metadata);
  }
  worker.kill('SIGTERM');
  await worker.ended;
});

test('unpackd enqueue passes on the span in TRACEPARENT', async () => {
  const worker = await parts.worker(traced());
  const env = { REDIS_URL: parts.redis.url, TRACEPARENT: `00-${'12'.repeat(16)}-${'34'.repeat(8)}-01` };
  const { stdout } = await runCli(['enqueue', 's3://images/app:app', '--json', '--no-deduplicate'], { env });
  const { id } = JSON.parse(stdout);
  const { traceId, parentId } = await spanOf(id);
  assert.deepEqual([traceId, parentId], ['12'.repeat(16), '34'.repeat(8)]);
  worker.kill('SIGTERM');
  await worker.ended;
});

test('spans have no keys and no signatures', () => {
  const all = Buffer.concat(collector.bodies).toString('latin1');
  assert.ok(all.includes('registry.example/app:app'), 'the bodies are readable');
  const { accessKeyId, secretAccessKey } = parts.bucket.server;
  for (const secret of [accessKeyId, secretAccessKey, 'X-Amz-', 'Signature']) {
    assert.ok(!all.includes(secret), secret);
  }
});

test('a collector that is down or hangs delays no job and no end, and is logged once', async () => {
  const held = createServer(() => {});
  const port = await listen(held);
  stack.defer(() => {
    held.close();
    held.closeAllConnections();
  });
  // nothing listens on the first port; the second one accepts requests and never answers
  for (const endpoint of ['http://127.0.0.1:9', `http://127.0.0.1:${port}`]) {
    const worker = await parts.worker(
      traced({ OTEL_EXPORTER_OTLP_ENDPOINT: endpoint, OTEL_EXPORTER_OTLP_TIMEOUT: '300' }),
    );
    for (let times = 0; times < 3; times++) {
      const result = await parts.queue.wait(await parts.queue.add(parts.payload('app'), { deduplicate: false }));
      assert.equal(result.attempts, 1);
    }
    await worker.logged(/traces cannot be sent to/);
    worker.kill('SIGTERM');
    assert.equal(await worker.ended, 0, 'it ends by itself');
    assert.equal(worker.log().match(/traces cannot be sent/g)?.length, 1);
  }
});

test('without an endpoint nothing of OpenTelemetry is loaded, and without a health port no prom-client', async () => {
  const off = await parts.worker({ ...base, OTEL_SERVICE_NAME: 'unpackd' });
  await parts.queue.wait(await parts.queue.add(parts.payload('app'), { deduplicate: false }));
  off.kill('SIGTERM');
  await off.ended;
  assert.doesNotMatch(off.log(), /LOADED/);
  const on = await parts.worker(traced({ UNPACK_HEALTH_PORT: '0' }));
  on.kill('SIGTERM');
  await on.ended;
  assert.match(on.log(), /LOADED @opentelemetry/, 'the check sees what is loaded');
  assert.match(on.log(), /LOADED prom-client/);
});

test('a wrong variable of OpenTelemetry stops the start with a sentence', async () => {
  const env = { REDIS_URL: parts.redis.url, UNPACK_ROOT: parts.root, OTEL_EXPORTER_OTLP_ENDPOINT: collector.endpoint };
  const { status, stderr } = await runCli(['worker'], { env: { ...env, OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' } });
  assert.equal(status, 2);
  assert.match(stderr, /OTEL_EXPORTER_OTLP_PROTOCOL="grpc": traces are sent only as http\/protobuf/);
});

function assertInside(child: CollectedSpan, parent: CollectedSpan): void {
  // the wall clock of JavaScript has milliseconds
  const slack = 2_000_000n;
  assert.ok(child.end >= child.start, `${child.name} ends after it starts`);
  assert.ok(child.start >= parent.start - slack && child.end <= parent.end + slack, `${child.name} in ${parent.name}`);
}

function idOf(span: Span): string {
  return span.spanContext().traceId;
}

/** The context of OpenTelemetry for asynchronous code, as a program with OpenTelemetry has it. */
class AsyncContexts implements ContextManager {
  readonly #storage = new AsyncLocalStorage<Context>();

  active(): Context {
    return this.#storage.getStore() ?? ROOT_CONTEXT;
  }

  with<A extends unknown[], F extends (...args: A) => ReturnType<F>>(
    active: Context,
    work: F,
    thisArg?: ThisParameterType<F>,
    ...args: A
  ): ReturnType<F> {
    return this.#storage.run(active, () => work.call(thisArg, ...args));
  }

  bind<T>(_context: Context, target: T): T {
    return target;
  }

  enable(): this {
    return this;
  }

  disable(): this {
    return this;
  }
}
