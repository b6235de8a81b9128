import assert from 'node:assert/strict';
import { AsyncLocalStorage } from 'node:async_hooks';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';
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
import { type Stage, stage, type WorkerProcess } from '../e2e/stage.ts';
import { makeCertificates } from '../support/certificates.ts';
import { eventually } from '../support/eventually.ts';
import { startProxy } from '../support/http-proxy.ts';
import { imageOf, layerOf } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
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
const PRODUCER = 4;
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

describe('a worker with a collector', () => {
  let worker: WorkerProcess;
  before(async () => {
    worker = await parts.worker(traced({ OTEL_RESOURCE_ATTRIBUTES: 'deployment.environment.name=test' }));
  });
  after(async () => {
    worker.kill('SIGTERM');
    assert.equal(await worker.ended, 0);
  });

  test('a job has a span below that of its producer, with layers and their phases', async () => {
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
  });

  test('a failed attempt and its retry are siblings, with the code, and the layer that failed', async () => {
    const damaged = imageOf(layers(2));
    await parts.push('damaged', { app: damaged }, [damaged.layers[1]?.blob.digest ?? '']);
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
  });

  test('a job whose trace is no trace is done, with a trace of its own', async () => {
    const queue = new Queue('image-unpack', { connection: { url: parts.redis.url } });
    stack.defer(() => queue.close());
    for (const metadata of ['', '{', '"text"', '{"traceparent":7}', '{"traceparent":"00-zz-zz-01"}']) {
      const { id = '' } = await queue.add('unpack', parts.payload('app'), { telemetry: { metadata } });
      await parts.queue.wait(id);
      assert.equal((await spanOf(id)).parentId, '', metadata);
    }
  });

  test('unpackd enqueue passes on the span in TRACEPARENT', async () => {
    const env = { REDIS_URL: parts.redis.url, TRACEPARENT: `00-${'12'.repeat(16)}-${'34'.repeat(8)}-01` };
    const { stdout } = await runCli(['enqueue', 's3://images/app:app', '--json', '--no-deduplicate'], { env });
    const { id } = JSON.parse(stdout);
    const { traceId, parentId } = await spanOf(id);
    assert.deepEqual([traceId, parentId], ['12'.repeat(16), '34'.repeat(8)]);
  });

  test('unpackd enqueue makes a span of its own if a collector is set, between the one in TRACEPARENT and that of the worker', async () => {
    const env = {
      REDIS_URL: parts.redis.url,
      TRACEPARENT: `00-${'56'.repeat(16)}-${'78'.repeat(8)}-01`,
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.endpoint,
    };
    const { stdout, stderr, status } = await runCli(['enqueue', 's3://images/app:app', '--json', '--no-deduplicate'], {
      env,
    });
    assert.deepEqual([status, stderr], [0, '']);
    const { id } = JSON.parse(stdout);
    const run = await spanOf(id);
    const sent = collector.spans.find(({ spanId }) => spanId === run.parentId);
    assert.ok(sent !== undefined, 'the command has sent its span before it ended');
    assert.deepEqual([sent.name, sent.kind], ['send image-unpack', PRODUCER]);
    assert.deepEqual([sent.traceId, sent.parentId], ['56'.repeat(16), '78'.repeat(8)]);
    assert.equal(sent.attributes['messaging.message.id'], id);
    assert.equal(sent.resource['service.name'], 'unpackd-producer');
  });

  test('a job whose producer was not sampled has no spans', async () => {
    const trace = (flags: string, id: string) => ({ traceparent: `00-${id.repeat(16)}-${'78'.repeat(8)}-${flags}` });
    for (const [flags, id] of [
      ['00', '9a'],
      ['01', '9b'],
    ] as const) {
      const options = { trace: trace(flags, id), deduplicate: false };
      const job = await parts.queue.add(parts.payload('app'), options);
      await parts.queue.wait(job);
      // spans are sent in the order of the jobs
      if (flags === '01') await spanOf(job.id);
    }
    const ids = new Set(collector.spans.map(({ traceId }) => traceId));
    assert.deepEqual([ids.has('9a'.repeat(16)), ids.has('9b'.repeat(16))], [false, true]);
  });
});

test('spans go to a collector with TLS through the proxy of HTTPS_PROXY, except for names in NO_PROXY', async () => {
  const folder = stack.use(scratch());
  const { ca, server } = makeCertificates(folder.path);
  const secure = await startCollector({ cert: readFileSync(server.cert), key: readFileSync(server.key) });
  stack.defer(() => secure.close());
  const proxy = await startProxy();
  stack.defer(() => proxy.close());
  const tls = { OTEL_EXPORTER_OTLP_ENDPOINT: secure.endpoint, OTEL_EXPORTER_OTLP_CERTIFICATE: ca };
  const run = async (env: Readonly<Record<string, string>>): Promise<void> => {
    const before = secure.spans.length;
    const worker = await parts.worker(traced({ ...tls, HTTPS_PROXY: `http://${proxy.address}`, ...env }));
    await parts.queue.wait(await parts.queue.add(parts.payload('app'), { deduplicate: false }));
    worker.kill('SIGTERM');
    await worker.ended;
    assert.ok(secure.spans.length > before, 'the spans have arrived');
  };
  await run({ NO_PROXY: 'localhost' });
  assert.deepEqual(proxy.seen, []);
  await run({});
  assert.deepEqual([...new Set(proxy.seen)], [new URL(secure.endpoint).host]);
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
