import { randomUUID } from 'node:crypto';
import { after, before } from 'node:test';
import { Queue } from 'bullmq';
import { type LocalRedis, type LocalRedisOptions, startRedis } from '../../dev/redis-server.ts';
import { type Config, loadConfig } from '../../src/config.ts';
import type { Payload } from '../../src/queue/formats.ts';
import { createLog } from '../../src/queue/log.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import { UnpackWorker } from '../../src/queue/worker.ts';
import type { WorkerObserver } from '../../src/queue/worker-observer.ts';
import { type Script, type ScriptedStore, scriptedKeeper, scriptedUnpacker } from './scripted-unpacker.ts';

/** A real Redis, and everything that tests open on it. All of it is closed after the tests of the file. */
export interface QueueFixture {
  readonly redis: LocalRedis;
  /** Settings with a short backoff and grace time. Each call has a queue of its own. */
  settings(overrides?: Record<string, string>): Config;
  producer(settings: Config, timeout?: number): UnpackQueue;
  worker(settings: Config, script: Script, store?: ScriptedStore, observer?: WorkerObserver): Promise<TestWorker>;
  /** A queue of BullMQ, for jobs that UnpackQueue would not add. */
  bull(settings: Config): Queue;
  /** Closes after the tests what a test has opened. */
  onEnd(close: () => Promise<unknown> | unknown): void;
}

export interface TestWorker {
  readonly log: Record<string, unknown>[];
  whyNotReady(): Promise<string | undefined>;
  close(): Promise<void>;
}

export function queueFixture(options: LocalRedisOptions = {}): QueueFixture {
  let redis: LocalRedis | undefined;
  const closing: (() => Promise<unknown> | unknown)[] = [];
  before(async () => {
    redis = await startRedis(options);
  });
  after(async () => {
    for (const close of closing.reverse()) await close();
    await redis?.stop();
  });
  const fixture: QueueFixture = {
    get redis() {
      if (redis === undefined) throw new Error('there is no Redis before the tests begin');
      return redis;
    },
    settings: (overrides = {}) => testSettings(fixture.redis.url, overrides),
    producer(settings, timeout = 60_000) {
      const producer = new UnpackQueue(settings, timeout);
      closing.push(() => producer.close());
      return producer;
    },
    async worker(settings, script, store, observer) {
      const log: Record<string, unknown>[] = [];
      const worker = new UnpackWorker({
        settings,
        unpacker: scriptedUnpacker(script, store),
        keeper: store?.keeper && scriptedKeeper(store.keeper),
        policy: { connection: CONNECTION, buckets: settings.UNPACK_BUCKETS },
        store: { root: '/store', snapshotter: 'overlay' },
        presence: store?.presence,
        observer,
        log: createLog(settings, { write: (line) => log.push(JSON.parse(line)) }),
      });
      closing.push(() => worker.close());
      await worker.start();
      return { log, whyNotReady: () => worker.whyNotReady(2000), close: () => worker.close() };
    },
    bull(settings) {
      const queue = new Queue(settings.UNPACK_QUEUE, { connection: { url: settings.REDIS_URL } });
      queue.on('error', () => {});
      closing.push(() => queue.close());
      return queue;
    },
    onEnd: (close) => void closing.push(close),
  };
  return fixture;
}

export const CONNECTION = {
  region: 'here',
  forcePathStyle: true,
  connectTimeout: 1000,
  idleTimeout: 1000,
  maxResumes: 1,
};

export function testSettings(url: string, overrides: Record<string, string> = {}): Config {
  return loadConfig(
    {
      REDIS_URL: url,
      UNPACK_QUEUE: `test-${randomUUID()}`,
      UNPACK_BACKOFF: '10ms',
      UNPACK_LOCK: '30s',
      UNPACK_GRACE: '300ms',
      UNPACK_WORKER_NAME: 'worker-1',
      UNPACK_LOG_FORMAT: 'json',
      ...overrides,
    },
    {},
  );
}

/** A payload with a bucket that the script recognizes. */
export function payload(bucket: string, more: Partial<Payload> = {}): Payload {
  const base = {
    version: 1 as const,
    image: `registry.example/${bucket}:1`,
    source: { bucket, layout: 'oci' as const },
  };
  const target = more.tag === undefined && more.layers === undefined ? { manifest: `sha256:${'a'.repeat(64)}` } : {};
  return { ...base, ...target, ...more };
}

export { eventually } from '../support/eventually.ts';
