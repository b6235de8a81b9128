import assert from 'node:assert/strict';
import { StatementSync } from 'node:sqlite';
import { after, before, test } from 'node:test';
import type { Redis } from 'ioredis';
import '../support/needs-root.ts';
import { createUnpacker } from '../../src/image/unpacker.ts';
import { FAST_PATH_LIMIT } from '../../src/queue/fast-path.ts';
import type { Payload, UnpackResult } from '../../src/queue/formats.ts';
import { createLog } from '../../src/queue/log.ts';
import { UnpackWorker } from '../../src/queue/worker.ts';
import { openStoreThread } from '../../src/snapshots/store-thread.ts';
import { eventually, queueFixture } from '../queue/queue-fixture.ts';
import { altered } from '../support/altered.ts';
import { SETTINGS } from '../support/apply.ts';
import { startTestBucket, type TestBucket } from '../support/bucket.ts';
import { type FaultyProxy, startFaultyProxy } from '../support/faulty-s3.ts';
import { imageOf, layerOf, layoutFiles } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

/**
 * The cost of a job whose image is in the store: commands to Redis, requests to S3, lookups in the store and statements of its
 * database on the worker's main thread, counted over many jobs. An empty processor has only BullMQ's own commands.
 */
const JOBS = 400;
const JOBS_AT_ONCE = 4;
/** Of a lookup: the version of the database, which has not changed, and whether the layers are on disk. */
const STATEMENTS_PER_LOOKUP = 2;
/** Of the next lookup after a change of the database: whether the top snapshot can be used, its chain, the record of the image. */
const STATEMENTS_AFTER_CHANGE = 3;
/** The record of the image by the first job, and that its layers are on disk, ten seconds after their commits. */
const CHANGES = 2;
/**
 * A job that reaches FAST_PATH_LIMIT shows itself: it writes its progress at times, and these lines into its log (its attempt,
 * its image, each layer, its end). Then it takes the way of a job that has layers to unpack, and looks at each part again.
 */
const LINES_SHOWN = 6;
const STATEMENTS_IF_SHOWN = 5;
/** How much earlier than its time a timer can end, in milliseconds of the clock that jobs are measured with. */
const CLOCK_STEP = 2;

const redis = queueFixture();
let bucket: TestBucket;
let proxy: FaultyProxy;
before(async () => {
  bucket = await startTestBucket();
  proxy = await startFaultyProxy({ target: bucket.server.endpoint });
});
after(async () => {
  await proxy.close();
  await bucket.close();
});

interface Cost {
  /** Calls by name, of clients and of scripts. */
  readonly commands: Readonly<Record<string, number>>;
  readonly requests: number;
  readonly lookups: number;
  readonly statements: number;
  /** The number of jobs that took as long as the fast path may take. Only a busy machine has some. */
  readonly slow: number;
}

const image = imageOf(['a', 'b', 'c'].map((name) => layerOf(tar(file(name)))));
const TARGETS: Readonly<Record<string, Partial<Payload>>> = {
  manifest: { manifest: image.manifestDigest },
  layers: {
    layers: image.layers.map(({ diff, blob: { mediaType, digest, size } }) => ({
      diff,
      blob: { mediaType, digest, size },
    })),
  },
  tag: { tag: 'app' },
};

/** The average cost of each of JOBS, without the start of the worker. */
async function costOf(target: Partial<Payload>): Promise<Cost> {
  for (const [path, bytes] of layoutFiles({ app: image })) await bucket.put(`app/${path}`, bytes);
  using place = scratch();
  const settings = redis.settings({ UNPACK_JOBS: String(JOBS_AT_ONCE), UNPACK_LOCK: '30s', UNPACK_LOG_LEVEL: 'warn' });
  const snapshotter = await openStoreThread({ root: place.path, type: 'overlay', durable: false });
  let lookups = 0;
  const counted = altered(snapshotter, {
    lookUpImage: (key) => {
      lookups++;
      return snapshotter.lookUpImage(key);
    },
  });
  const unpacker = createUnpacker(counted, { threads: 2, apply: SETTINGS });
  const worker = new UnpackWorker({
    settings,
    unpacker,
    policy: { connection: bucket.connection({ endpoint: proxy.endpoint }), buckets: [] },
    store: { root: place.path, snapshotter: 'overlay' },
    log: createLog(settings, { write: () => {} }),
  });
  const queue = redis.producer(settings);
  const bull = redis.bull(settings);
  const client: Redis = (await bull.getBackend().client) as unknown as Redis; // BullMQ's view of the client that it made
  const job = { payload: { version: 1 as const, image: 'x', source: SOURCE, ...target } };
  const { get, all, run } = StatementSync.prototype;
  let statements = 0;
  try {
    await worker.start();
    const { id } = await queue.add(job.payload);
    // not by queue.wait, which reads the queue's events
    await eventually('the image is there', async () => (await queue.status(id)).state === 'completed');
    await bull.pause();
    const added = await queue.addBulk(
      Array.from({ length: JOBS }, () => ({ ...job, options: { deduplicate: false } })),
    );
    await client.config('RESETSTAT');
    const before = { requests: proxy.seen.length, lookups };
    const counting = <T extends (...args: never[]) => unknown>(method: T): T =>
      function (this: unknown, ...args: never[]) {
        statements++;
        return method.apply(this, args);
      } as T; // it calls the method as it was called
    Object.assign(StatementSync.prototype, { get: counting(get), all: counting(all), run: counting(run) });
    await bull.resume();
    // not a script of BullMQ, which would be counted
    await eventually('all are done', async () => (await client.zcard(bull.toKey('completed'))) > JOBS);
    const commands = commandCounts(await client.info('commandstats'));
    assert.equal((await queue.status(added.at(-1)?.id ?? '')).state, 'completed');
    const requests = proxy.seen.length - before.requests;
    const results = (await bull.getCompleted(0, -1)).filter((done) => done.id !== id);
    const durations = results.map(({ returnvalue }: { returnvalue: UnpackResult }) => returnvalue.durationMs);
    const slow = durations.filter((duration) => duration >= FAST_PATH_LIMIT - CLOCK_STEP).length;
    return { commands, requests, lookups: lookups - before.lookups, statements, slow };
  } finally {
    Object.assign(StatementSync.prototype, { get, all, run });
    await worker.close();
    await unpacker.close();
    await snapshotter.close();
  }
}

const SOURCE = { bucket: 'images', prefix: 'app', layout: 'oci' as const };

function commandCounts(info: string): Record<string, number> {
  return Object.fromEntries(
    [...info.matchAll(/^cmdstat_([\w|]+):calls=(\d+)/gm)].map(([, name = '', calls]) => [name, Number(calls)]),
  );
}

/** Number of Lua scripts run. BullMQ runs one for each job, which ends it and takes the next. */
const scripts = ({ commands }: Cost): number => (commands.evalsha ?? 0) + (commands.eval ?? 0);

for (const [kind, target] of Object.entries(TARGETS)) {
  test(`a job that names an existing image by ${kind} writes only its result, and does one or two lookups`, async () => {
    const cost = await costOf(target);
    const { lookups, statements, slow } = cost;
    const { rpush: lines = 0, xread = 0, publish = 0, hset = 0 } = cost.commands;
    const shown = lines / LINES_SHOWN;
    const progress = hset - JOBS;
    assert.ok(scripts(cost) >= JOBS && lookups >= JOBS && statements >= JOBS, 'the counters work');
    assert.ok(
      shown <= slow && (progress === 0 || shown > 0),
      `${shown} jobs wrote ${progress} times, ${slow} were slow`,
    );
    assert.deepEqual({ xread, publish }, { xread: 0, publish: 0 });
    // Flags that were read ahead are valid for a second. On a machine that is too busy, a job reads its flag and the store
    // once more, but a job that has requested a tag keeps its lookup. The worker also resumes the queue, and asks for jobs at
    // the beginning and at the end.
    const own = scripts(cost) - lines - progress;
    assert.ok(own <= 2 * JOBS + 3 * JOBS_AT_ONCE, `${own} scripts for ${JOBS} jobs`);
    assert.ok(lookups <= (kind === 'tag' ? 1 : 2) * JOBS, `${lookups} lookups for ${JOBS} jobs`);
    const limit = STATEMENTS_PER_LOOKUP * lookups + STATEMENTS_IF_SHOWN * shown + STATEMENTS_AFTER_CHANGE * CHANGES;
    assert.ok(statements <= limit, `${statements} statements for ${lookups} lookups and ${shown} shown jobs`);
    if (kind === 'tag') assert.ok(cost.requests <= JOBS && cost.requests >= JOBS / JOBS_AT_ONCE, `${cost.requests}`);
    else assert.equal(cost.requests, 0);
  });
}
