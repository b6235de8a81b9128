import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { findRedis } from '../../dev/redis-server.ts';
import type { Config } from '../../src/config.ts';
import { JobNotFoundError, QueueUnavailableError } from '../../src/queue/errors.ts';
import { createLog } from '../../src/queue/log.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import { UnpackWorker } from '../../src/queue/worker.ts';
import { Random } from '../fuzz/random.ts';
import { CONNECTION, payload, testSettings } from '../queue/queue-fixture.ts';
import { type Call, image, scriptedUnpacker } from '../queue/scripted-unpacker.ts';
import { eventually } from '../support/eventually.ts';
import type { Proof, Run } from './proof.ts';
import {
  type Accident,
  type Endangered,
  startClusterToFail,
  startSentinelsToFail,
  startServer,
} from './redis-accidents.ts';

const WORKERS = ['one', 'two'];
const JOBS = 40;
/** Milliseconds over which the jobs are added. The accident begins in the first half. */
const ADDED_WITHIN = 6000;
/** Milliseconds. A job takes less, except the long one, which ends when the accident is over. */
const LONGEST_JOB = 1500;
/** Milliseconds. Limit of one job, also on a busy machine. */
const JOB_LIMIT = 150_000;
/** What a worker may log as a warning in a failover. */
const EXPECTED = /^Redis |^the lock on the job is lost|^the progress of a job could not be|^the job could not be given/;

/** The servers of Redis fail while jobs are added and run: one server, a primary with replicas and sentinels, and a cluster. */
export const proof: Proof = {
  name: 'failover',
  describes:
    'with Redis servers that are killed, frozen, replaced and cut off, every job ends right, none is lost, and workers go on',
  missing: () => (findRedis() === undefined ? 'neither redis-server nor valkey-server is on the PATH' : false),
  async open(run) {
    await using opened = new AsyncDisposableStack();
    // each of the servers listens to the exit of this process
    process.setMaxListeners(30);
    const deployments = [
      opened.use(await startServer()),
      opened.use(await startSentinelsToFail()),
      opened.use(await startClusterToFail()),
    ];
    const closing = opened.move();
    return {
      async attempt(seed) {
        const ends = await Promise.allSettled(
          deployments.map((deployment, index) => oneRound(deployment, new Random(seed * 3 + index), run)),
        );
        const reasons = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason] : []));
        if (reasons.length > 0) throw reasons[0];
      },
      [Symbol.asyncDispose]: () => closing.disposeAsync(),
    };
  },
};

/** Jobs of a round that were acknowledged, and are lost. */
interface Losses {
  readonly may: boolean;
  count: number;
  /** Whether the round has ended, possibly with a finding, so that nothing is tried again. */
  isOver: boolean;
}

async function oneRound(deployment: Endangered, random: Random, run: Run): Promise<void> {
  const { kind } = deployment;
  // replication is asynchronous: without waiting for a replica, the last jobs are lost with their primary
  const confirmed = kind === 'server' || random.oneIn(2);
  const accident = random.pick(deployment.accidents);
  const mode = kind === 'server' ? '' : confirmed ? ', with confirmed jobs' : ', with jobs that no replica confirmed';
  const title = `${kind}: ${accident.name}${mode}`;
  try {
    await round({ deployment, accident, confirmed }, random, run);
  } catch (error) {
    throw new Error(title, { cause: error });
  }
  run.count(title);
}

interface Round {
  readonly deployment: Endangered;
  readonly accident: Accident;
  /** Whether each job has a copy before it is acknowledged. */
  readonly confirmed: boolean;
}

async function round({ deployment, accident, confirmed }: Round, random: Random, run: Run): Promise<void> {
  const losses: Losses = { may: !confirmed, count: 0, isOver: false };
  await deployment.whole();
  await deployment.requireReplicas(confirmed);
  const settings = testSettings(deployment.url, {
    UNPACK_REDIS_PREFIX: '{bull}',
    // one that is promoted by order may be any of them
    UNPACK_REDIS_REPLICAS: String(confirmed ? deployment.replicas : 0),
    UNPACK_LOCK: '5s',
  });
  await using opened = new AsyncDisposableStack();
  const queue = new UnpackQueue(settings);
  opened.defer(() => queue.close());
  const released = Promise.withResolvers<void>();
  opened.defer(() => {
    losses.isOver = true;
    released.resolve();
  });
  const workers = WORKERS.map((name) => startWorker({ ...settings, UNPACK_WORKER_NAME: name }, released.promise));
  for (const { worker } of workers) opened.defer(() => worker.close());
  await Promise.all(workers.map(({ started }) => started));

  const long = follow(queue, 'long', losses, run);
  const jobs = Array.from({ length: JOBS }, async (_, index) => {
    const length = random.below(LONGEST_JOB);
    await sleep(random.below(ADDED_WITHIN));
    return follow(queue, `job-${index}-${length}`, losses, run);
  });
  const results = Promise.all([long, ...jobs]);
  // it is awaited below, after the accident
  results.catch(() => {});
  await sleep(random.below(ADDED_WITHIN / 2));
  await accident.happen(random);
  const over = Date.now();
  // the long job is among the results, so they end before this only with an error
  await Promise.race([Promise.all([deployment.whole(), goesOn(queue, over)]), results]);
  released.resolve();
  const ids = await results;
  await nothingLeft(queue, ids, losses);
  await eventually('the workers take jobs', async () => {
    const reasons = await Promise.all(workers.map(({ worker }) => worker.whyNotReady(2000)));
    return reasons.every((reason) => reason === undefined);
  });
  const odd = workers.flatMap(({ warnings }) => warnings).filter((line) => !EXPECTED.test(line));
  assert.deepEqual(odd, [], 'unexpected lines in the logs of the workers');
  run.count('jobs that ended right', ids.length);
  if (losses.count > 0)
    run.count('jobs that no replica confirmed, that a failover lost, and that were added again', losses.count);
}

/**
 * Adds a job and waits for it, as a producer must: a failed call is made again, and a job that is gone is added again.
 * @returns the ID of the job with the result
 */
async function follow(queue: UnpackQueue, name: string, losses: Losses, run: Run): Promise<string> {
  const again = async <T>(what: string, call: () => Promise<T>): Promise<T> => {
    while (true) {
      try {
        return await call();
      } catch (error) {
        if (!(error instanceof QueueUnavailableError) || losses.isOver) throw error;
        run.count(`calls of ${what} that failed, and were made again`);
        // some failures need no time
        await sleep(50);
      }
    }
  };
  while (true) {
    const { id } = await again('add', () => queue.add(payload(name)));
    try {
      const result = await again('wait', () => queue.wait(id, { timeout: JOB_LIMIT }));
      assert.equal(result.images[0]?.chainId, chainOf(name));
      return id;
    } catch (error) {
      if (!(error instanceof JobNotFoundError)) throw error;
      if (!losses.may) throw new Error(`job ${name} was acknowledged as ${id}, and is lost`);
      losses.count += 1;
    }
  }
}

/** After the accident, the long job reports progress, and every worker sends heartbeats. */
async function goesOn(queue: UnpackQueue, over: number): Promise<void> {
  const overview = () => queue.overview().catch(unlessUnavailable);
  let fetched: number | undefined;
  await eventually('the long job reports progress', async () => {
    const ids =
      (await overview())?.workers.flatMap(({ jobs }) => jobs).filter(({ image = '' }) => /long/.test(image)) ?? [];
    for (const { id } of ids) {
      const status = await queue.status(id).catch(unlessUnavailable);
      const now = status?.progress?.bytesFetched;
      if (now === undefined) continue;
      if (fetched !== undefined && now > fetched) return true;
      fetched = now;
    }
    return false;
  });
  await eventually('the workers send heartbeats', async () => {
    const names = (await overview())?.workers.filter(({ seen }) => seen.getTime() > over).map(({ name }) => name);
    return WORKERS.every((name) => names?.includes(name));
  });
}

/** Every job has completed where the queue is now, and no other is left. */
async function nothingLeft(queue: UnpackQueue, ids: readonly string[], losses: Losses): Promise<void> {
  await eventually('no job waits or runs', async () => {
    const counts = await queue.counts().catch(unlessUnavailable);
    if (counts === undefined) return false;
    const { waiting, prioritized, delayed, active, failed } = counts;
    assert.equal(failed, 0, 'jobs have failed');
    return waiting + prioritized + delayed + active === 0;
  });
  for (const id of ids) {
    const state = await queue.status(id).then(
      ({ state }) => state,
      (error: unknown) => {
        // its result was read before the failover
        if (error instanceof JobNotFoundError && losses.may) return 'completed';
        throw error;
      },
    );
    assert.equal(state, 'completed', id);
  }
}

function unlessUnavailable(error: unknown): undefined {
  if (!(error instanceof QueueUnavailableError) && !(error instanceof JobNotFoundError)) throw error;
  return undefined;
}

function startWorker(settings: Config, released: Promise<void>) {
  const warnings: string[] = [];
  const worker = new UnpackWorker({
    settings,
    unpacker: scriptedUnpacker((call) => unpackSlowly(call, released)),
    policy: { connection: CONNECTION, buckets: [] },
    store: { root: '/store', snapshotter: 'overlay' },
    log: createLog(settings, {
      write: (text) => {
        const { level, msg } = JSON.parse(text) as { level: number; msg: string }; // a line of the log
        if (level >= 40) warnings.push(msg);
      },
    }),
  });
  return { worker, warnings, started: worker.start() };
}

/** Reports progress all the time, until the time in the name of the bucket is over, or until all long jobs are released. */
async function unpackSlowly({ bucket, signal, onResolved }: Call, released: Promise<void>) {
  const found = image('applying');
  const [layer] = found.layers;
  onResolved?.([found]);
  const end = Date.now() + Number(/-(\d+)$/.exec(bucket)?.[1] ?? JOB_LIMIT);
  let isReleased = false;
  void released.then(() => {
    isReleased = true;
  });
  while (Date.now() < end && !isReleased) {
    await sleep(50);
    signal?.throwIfAborted();
    if (layer !== undefined) layer.fetched += 1;
  }
  return [{ ...image('applied'), chainId: chainOf(bucket) }];
}

function chainOf(name: string): string {
  return `sha256:${createHash('sha256').update(name).digest('hex')}`;
}
