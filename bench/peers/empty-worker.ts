import { Worker } from 'bullmq';
import type { UnpackResult } from '../../src/queue/result.ts';

/**
 * What BullMQ alone does with our jobs: a worker with the settings of `src/queue/worker.ts` whose processor returns a
 * result like ours at once.
 * It is told in the environment what to do, as our own worker is.
 */
const { BENCH_PORT: port, BENCH_QUEUE: queue = '', BENCH_CONCURRENCY: concurrency, BENCH_LAYERS: layers } = process.env;

const digest = `sha256:${'a'.repeat(64)}`;
const layer = { diffId: digest, chainId: digest, blobDigest: digest, state: 'existed' as const, compressedBytes: 1000 };
const result: UnpackResult = {
  version: 1,
  image: 'registry.example/bench/app:app',
  images: [
    {
      platform: 'linux/amd64',
      manifestDigest: digest,
      configDigest: digest,
      chainId: digest,
      layers: Array.from({ length: Number(layers) }, () => layer),
    },
  ],
  worker: { name: 'bench', host: 'bench' },
  store: { root: '/var/lib/unpackd', snapshotter: 'overlay' },
  startedAt: new Date().toISOString(),
  durationMs: 1,
  attempts: 1,
  warnings: [],
};

const worker = new Worker(queue, async () => result, {
  connection: { host: '127.0.0.1', port: Number(port) },
  concurrency: Number(concurrency),
  lockDuration: 30_000,
  stalledInterval: 15_000,
  maxStalledCount: Number.MAX_SAFE_INTEGER,
  removeOnComplete: { count: 100_000, age: 24 * 3600 },
  removeOnFail: { count: 5000, age: 14 * 24 * 3600 },
  metrics: { maxDataPoints: 7 * 24 * 60 },
});
worker.on('error', () => {});
process.on('SIGTERM', () => process.exit(0));
