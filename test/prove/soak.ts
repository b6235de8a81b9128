import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { isSnapshotError } from '../../src/snapshots/snapshotter.ts';
import { chainOf, type Stage, stage, until, type WorkerProcess } from '../e2e/stage.ts';
import { Random } from '../fuzz/random.ts';
import { referenceTrees, type StoreTrees, treesOf } from '../support/store-trees.ts';
import { someImages } from './images.ts';
import type { Proof, Run } from './proof.ts';

const JOBS = 30;
/** Rounds after which the caches and pools of a process have reached their size. */
const WARM_UP = 5;
/** How much more the permanent worker may use after any number of rounds than after the first ones. */
const MAY_GROW = { bytes: 200 << 20, descriptors: 15, threads: 8 };
/** Milliseconds. Limit of one job, also on a busy machine. */
const JOB_LIMIT = 240_000;

/** Jobs for an installation whose workers start and end and whose Redis restarts. One worker is permanent. */
export const proof: Proof = {
  name: 'soak',
  describes:
    'with workers that come, go and die, and a Redis that restarts, every job ends right and nothing grows or is left',
  missing: () => (process.getuid?.() === 0 ? false : 'workers of this kind need root'),
  async open(run) {
    const images = someImages(2);
    const trees = await referenceTrees(images);
    const s = await stage({ persistent: true });
    try {
      for (const [tag, image] of Object.entries(images)) await s.push(tag, { app: image });
      const env = { UNPACK_LOCK: '10s', UNPACK_JOBS: '3', UNPACK_ATTEMPTS: '20' };
      const staying = await s.worker({ ...env, UNPACK_WORKER_NAME: 'staying' });
      const chains = new Map(Object.entries(images).map(([tag, image]) => [tag, chainOf(image)]));
      const installation = { s, env, staying, chains, trees, rounds: 0, base: undefined as Appetite | undefined };
      return {
        attempt: (seed) => round(installation, new Random(seed), run),
        [Symbol.asyncDispose]: () => s[Symbol.asyncDispose](),
      };
    } catch (error) {
      await s[Symbol.asyncDispose]();
      throw error;
    }
  },
};

interface Installation {
  readonly s: Stage;
  readonly env: Readonly<Record<string, string>>;
  readonly staying: WorkerProcess;
  /** The names of the snapshots of each image, by its prefix. */
  readonly chains: ReadonlyMap<string, readonly string[]>;
  readonly trees: StoreTrees;
  rounds: number;
  base: Appetite | undefined;
}

async function round(installation: Installation, random: Random, run: Run): Promise<void> {
  const { s, env, chains } = installation;
  await removeSome(installation, random);
  const prefixes = Array.from({ length: JOBS }, () => random.pick([...chains.keys()]));
  const jobs = await s.queue.addBulk(
    prefixes.map((prefix) => ({ payload: s.payload(prefix), options: { deduplicate: random.oneIn(2) } })),
  );
  const ends = Promise.all(jobs.map((job) => s.queue.wait(job, { timeout: JOB_LIMIT })));
  // it is awaited below, after the kills and restarts
  ends.catch(() => {});
  let restarted = false;
  let killed = false;
  const accidents = 1 + random.below(4);
  for (let i = 0; i < accidents; i++) {
    await sleep(random.below(400));
    if (random.oneIn(3) && !restarted) {
      restarted = true;
      await s.redis.restart();
      run.count('restarts of Redis');
    } else {
      const worker = await s.worker(env);
      await sleep(random.below(600));
      const signal = random.pick(['SIGTERM', 'SIGKILL']);
      killed ||= signal === 'SIGKILL';
      worker.kill(signal);
      await worker.ended;
      run.count(`workers that came, and went by ${signal}`);
    }
  }
  const results = await ends;
  for (const [index, result] of results.entries()) {
    assert.deepEqual([result.images[0]?.chainId], chains.get(prefixes[index] ?? '')?.slice(-1));
  }
  run.count('jobs that ended right', results.length);
  await look(installation, new Set(prefixes), killed);
  grown(installation);
}

/** Removes images, so that the next round has work. */
async function removeSome({ s, chains }: Installation, random: Random): Promise<void> {
  const store = await openSnapshotter({ root: s.root, type: 'overlay', durable: false });
  try {
    for (const chain of chains.values()) {
      if (random.oneIn(3)) continue;
      for (const name of chain.toReversed()) {
        try {
          await store.remove(name);
        } catch (error) {
          // it does not exist, or other images use it as a lower layer
          if (!isSnapshotError(error, 'NotFound') && !isSnapshotError(error, 'FailedPrecondition')) throw error;
        }
      }
    }
  } finally {
    await store.close();
  }
}

async function look({ s, chains, trees }: Installation, prefixes: ReadonlySet<string>, killed: boolean): Promise<void> {
  const store = await openSnapshotter({ root: s.root, type: 'overlay', durable: false });
  try {
    const found = await treesOf(store);
    for (const name of Object.keys(found)) assert.deepEqual(found[name], trees[name], name);
    for (const prefix of prefixes) {
      for (const name of chains.get(prefix) ?? [])
        assert.ok(name in found, `${prefix} was reported, ${name} is not there`);
    }
    const unfinished = (await store.walk()).filter(({ kind }) => kind !== 'committed');
    if (killed) {
      // the next worker that starts removes its leftovers, and so does a cleanup
      for (const { name } of unfinished) await store.remove(name);
      await store.cleanup();
    } else {
      assert.deepEqual(unfinished, [], 'nothing is left half done by workers that had the time to end');
      const folders = (): number =>
        readdirSync(join(s.root, 'snapshots')).filter((name) => name !== 'store.json').length;
      // a worker may still be deleting files of removed snapshots
      await until(
        () => folders() === Object.keys(found).length,
        JOB_LIMIT,
        () => `${folders()} folders`,
      );
    }
  } finally {
    await store.close();
  }
}

/** The resources of a process: memory in bytes, open descriptors, threads. */
interface Appetite {
  readonly bytes: number;
  readonly descriptors: number;
  readonly threads: number;
}

function appetiteOf(pid: number): Appetite {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const numberOf = (field: string): number => Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(status)?.[1]);
  return {
    bytes: numberOf('VmRSS') * 1024,
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
    threads: numberOf('Threads'),
  };
}

function grown(installation: Installation): void {
  const { staying } = installation;
  assert.equal(staying.child.exitCode, null, `the worker that stays has ended:\n${staying.log().slice(-2000)}`);
  const now = appetiteOf(staying.child.pid ?? -1);
  installation.rounds++;
  if (installation.rounds <= WARM_UP) installation.base = now;
  const { base = now } = installation;
  for (const what of ['bytes', 'descriptors', 'threads'] as const) {
    assert.ok(
      now[what] <= base[what] + MAY_GROW[what],
      `the worker that stays had ${base[what]} ${what}, has ${now[what]}`,
    );
  }
}
