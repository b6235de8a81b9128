import assert from 'node:assert/strict';
import { StatementSync } from 'node:sqlite';
import { after, before, test } from 'node:test';
import type { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import '../support/needs-root.ts';
import { createUnpacker } from '../../src/image/unpacker.ts';
import { cancelKey } from '../../src/queue/cancellation.ts';
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
import { keysOfScript, listCalls, type RedisCall } from '../support/redis-calls.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

/**
 * The cost of a job whose image is in the store: commands to Redis, requests to S3, lookups in the store and statements of its
 * database on the worker's main thread, counted over many jobs. An empty processor has only BullMQ's own commands. Only commands
 * for a job are counted: the worker and BullMQ also write for the whole queue, at times that do not depend on the jobs.
 */
const JOBS = 400;
const JOBS_AT_ONCE = 4;
/** Of a lookup: the version of the database, which has not changed, and whether the layers are on disk. */
const STATEMENTS_PER_LOOKUP = 2;
/**
 * Of the first lookup, because the database has changed since the last one: whether the top snapshot can be used, its chain, the
 * record of the image.
 */
const STATEMENTS_AFTER_CHANGE = 3;
/**
 * A job that reaches FAST_PATH_LIMIT shows itself: it writes its progress at times, and these lines into its log (its attempt,
 * its image, each layer, its end). Then it takes the way of a job that has layers to unpack. It looks for each layer, twice more
 * for the top layer, for the mounts, and whether the layers are on disk.
 */
const LAYERS = ['a', 'b', 'c'];
const LINES_SHOWN = LAYERS.length + 3;
const STATEMENTS_IF_SHOWN = LAYERS.length + 4;
/** How much earlier than its time a timer can end, in milliseconds of the clock that jobs are measured with. */
const CLOCK_STEP = 2;
/** The field of a job's record that has its result, in BullMQ. */
const RESULT = 'returnvalue';

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
  /** Scripts that were run for a job. BullMQ runs one for each job, which ends it and takes the next. */
  readonly scripts: number;
  /** Lines in the logs of jobs. */
  readonly lines: number;
  /** Writes into the record of a job, other than its result: its progress. */
  readonly progress: number;
  /** Reads of BullMQ's events, and messages to other processes. */
  readonly messages: number;
  readonly requests: number;
  readonly lookups: number;
  readonly statements: number;
  /** Different states of the store's database that the lookups have seen. */
  readonly states: number;
  /** The number of jobs that took as long as the fast path may take. Only a busy machine has some. */
  readonly slow: number;
}

const image = imageOf(LAYERS.map((name) => layerOf(tar(file(name)))));
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
  const settings = redis.settings({ UNPACK_JOBS: String(JOBS_AT_ONCE), UNPACK_LOCK: '1h', UNPACK_LOG_LEVEL: 'warn' });
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
  const client = new Redis(settings.REDIS_URL);
  redis.onEnd(() => client.quit());
  const job = { payload: { version: 1 as const, image: 'x', source: SOURCE, ...target } };
  const { get, all, run } = StatementSync.prototype;
  let statements = 0;
  const states = new Set<string>();
  try {
    await worker.start();
    const { id } = await queue.add(job.payload);
    // not by queue.wait, which reads the queue's events
    await eventually('the image is there', async () => (await queue.status(id)).state === 'completed');
    await snapshotter.sync(); // it would change the database ten seconds later
    await bull.pause();
    const added = await queue.addBulk(
      Array.from({ length: JOBS }, () => ({ ...job, options: { deduplicate: false } })),
    );
    // as if the last minute had ended: at the end of each, BullMQ writes how many jobs it had
    await client.hset(bull.toKey('metrics:completed'), 'prevTS', Date.now() - 60_000);
    const endOfCalls = await listCalls(client);
    const before = { requests: proxy.seen.length, lookups };
    const counting = <T extends (...args: never[]) => unknown>(method: T): T =>
      function (this: StatementSync, ...args: never[]) {
        statements++;
        const found = method.apply(this, args);
        if (this.sourceSQL === 'PRAGMA data_version') states.add(JSON.stringify(found));
        return found;
      } as T; // it calls the method as it was called
    Object.assign(StatementSync.prototype, { get: counting(get), all: counting(all), run: counting(run) });
    await bull.resume();
    await eventually('all are done', async () => (await client.zcard(bull.toKey('completed'))) > JOBS);
    const jobs = added.map((each) => each.id);
    const calls = callsFor(jobs, bull, await endOfCalls());
    assert.equal((await queue.status(added.at(-1)?.id ?? '')).state, 'completed');
    const requests = proxy.seen.length - before.requests;
    const results = (await bull.getCompleted(0, -1)).filter((done) => done.id !== id);
    const durations = results.map(({ returnvalue }: { returnvalue: UnpackResult }) => returnvalue.durationMs);
    const slow = durations.filter((duration) => duration >= FAST_PATH_LIMIT - CLOCK_STEP).length;
    return { ...calls, requests, lookups: lookups - before.lookups, statements, states: states.size, slow };
  } finally {
    Object.assign(StatementSync.prototype, { get, all, run });
    await worker.close();
    await unpacker.close();
    await snapshotter.close();
  }
}

const SOURCE = { bucket: 'images', prefix: 'app', layout: 'oci' as const };

function callsFor(
  jobs: readonly string[],
  queue: Pick<Queue, 'toKey'>,
  calls: readonly RedisCall[],
): Pick<Cost, 'scripts' | 'lines' | 'progress' | 'messages'> {
  const records = new Set(jobs.map((id) => queue.toKey(id)));
  const logs = new Set(jobs.map((id) => queue.toKey(`${id}:logs`)));
  const keys = new Set([...records, ...jobs.map((id) => cancelKey(queue, id))]);
  const number = (isCounted: (call: RedisCall) => boolean): number => calls.filter(isCounted).length;
  return {
    scripts: number((call) => keysOfScript(call).some((key) => keys.has(key))),
    lines: number(({ name, args: [key = ''] }) => name === 'rpush' && logs.has(key)),
    progress: number(({ name, args: [key = '', field] }) => name === 'hset' && records.has(key) && field !== RESULT),
    messages: number(({ name }) => name === 'xread' || name === 'publish'),
  };
}

for (const [kind, target] of Object.entries(TARGETS)) {
  test(`a job that names an existing image by ${kind} writes only its result, and does one or two lookups`, async () => {
    const cost = await costOf(target);
    const { scripts, lines, progress, messages, lookups, statements, states, slow } = cost;
    const shown = lines / LINES_SHOWN;
    assert.ok(scripts >= JOBS && lookups >= JOBS && statements >= JOBS, 'the counters work');
    assert.ok(
      shown <= slow && (progress === 0 || shown > 0),
      `${shown} jobs wrote ${progress} times, ${slow} were slow`,
    );
    assert.deepEqual({ messages, states }, { messages: 0, states: 1 });
    // Flags that were read ahead are valid for a second. On a machine that is too busy, a job reads its flag and the store
    // once more, but a job that has requested a tag keeps its lookup.
    const own = scripts - lines - progress;
    assert.ok(own <= 2 * JOBS, `${own} scripts for ${JOBS} jobs`);
    assert.ok(lookups <= (kind === 'tag' ? 1 : 2) * JOBS, `${lookups} lookups for ${JOBS} jobs`);
    const limit = STATEMENTS_PER_LOOKUP * lookups + STATEMENTS_IF_SHOWN * shown + STATEMENTS_AFTER_CHANGE;
    assert.ok(statements <= limit, `${statements} statements for ${lookups} lookups and ${shown} shown jobs`);
    if (kind === 'tag') assert.ok(cost.requests <= JOBS && cost.requests >= JOBS / JOBS_AT_ONCE, `${cost.requests}`);
    else assert.equal(cost.requests, 0);
  });
}
