import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { lowerDirectories } from '../../src/diff/target.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { type BulkyLayer, bulkyImage, bulkyLayer, sha256 } from '../support/bulky-image.ts';
import { ext4, unavailable } from '../support/file-system.ts';
import { inNamespace } from '../support/mount-namespace.ts';
import { chainOf, type Stage, stage } from './stage.ts';

const MIB = 1 << 20;
const LIMIT = 240_000;
const disk300 = () => ext4([], 300 * MIB);

/** Images of a shared layer of 20 MiB and 24 MiB of their own. */
async function pushImages(s: Stage, count: number): Promise<Map<string, readonly BulkyLayer[]>> {
  const base = bulkyLayer('base', { files: 20, ratio: 40 });
  const images = new Map<string, readonly BulkyLayer[]>();
  for (let index = 0; index < count; index++) {
    const prefix = `image-${index}`;
    const layers = [base, bulkyLayer(prefix, { files: 24, ratio: 40 })];
    images.set(prefix, layers);
    await s.push(prefix, { app: bulkyImage(layers) });
  }
  return images;
}

const chain = (layers: readonly BulkyLayer[] = []): string[] => chainOf(bulkyImage(layers));

describe('two workers with one store on a disk of 300 MB', { skip: unavailable(disk300) }, () => {
  it('unpack three times as much as fits, and keep the pinned and the mounted image', async () => {
    using disk = disk300();
    await using s = await stage({ root: join(disk.path, 'store') });
    const images = await pushImages(s, 24);
    const env = { UNPACK_GC_LOW: '20%', UNPACK_GC_HIGH: '35%', UNPACK_JOBS: '2' };
    const workers = [await s.worker(env), await s.worker(env)];
    const run = async (prefix: string) => s.queue.wait(await s.queue.add(s.payload(prefix)), { timeout: LIMIT });
    await run('image-0');
    await run('image-1');
    const store = await openSnapshotter({ root: s.root, type: 'overlay', durable: false });
    try {
      await store.pinImage(s.payload('image-0').image ?? '', undefined, true);
      // mounted by a process in a mount namespace of its own; nothing in the store tells that
      const place = join(disk.path, 'mounted');
      mkdirSync(place);
      const layers = lowerDirectories(await store.view('look', chain(images.get('image-1')).at(-1) ?? ''));
      const mount = `mount -t overlay overlay -o lowerdir=${layers.join(':')} ${place}`;
      await using holder = await inNamespace(mount);
      await store.remove('look');

      const jobs = await s.queue.addBulk([...images.keys()].map((prefix) => ({ payload: s.payload(prefix) })));
      for (const [index, result] of (
        await Promise.all(jobs.map((job) => s.queue.wait(job, { timeout: LIMIT })))
      ).entries()) {
        assert.equal(result.images[0]?.chainId, chain(images.get(`image-${index}`)).at(-1));
      }
      for (const prefix of ['image-0', 'image-1']) {
        for (const name of chain(images.get(prefix))) assert.ok(await store.has(name), `${prefix} is gone`);
      }
      for (const { files } of images.get('image-1') ?? []) {
        for (const [path, digest] of files) {
          assert.equal(sha256(readFileSync(`/proc/${holder.pid}/root${place}/${path}`)), digest, path);
        }
      }
      const log = workers.map((worker) => worker.log()).join('');
      assert.match(log, /removed registry.example\/image-\d+:app/);
      assert.doesNotMatch(log, /takes no more jobs until/);
      assert.deepEqual(
        workers.map(({ child }) => child.exitCode),
        [null, null],
      );
    } finally {
      await store.close();
    }
  });
});

describe('a job that is larger than the disk', { skip: unavailable(disk300) }, () => {
  it('fails at once with what it needs and what is free, and the worker takes the next job', async () => {
    using disk = disk300();
    await using s = await stage({ root: join(disk.path, 'store') });
    // not compressed, so its size is known
    const large = bulkyLayer('large', { files: 400, ratio: 1000, compression: 'none' });
    await s.push('large', { app: bulkyImage([large]) });
    await pushImages(s, 1);
    for (const marks of [{}, { UNPACK_GC_LOW: '20%', UNPACK_GC_HIGH: '35%' }]) {
      const worker = await s.worker(marks);
      const job = await s.queue.add(s.payload('large'), { attempts: 1 });
      await assert.rejects(s.queue.wait(job, { timeout: LIMIT }), (error: Error) => {
        assert.match(
          error.message,
          /^\S+ has no room for the image: its missing layers need 400 MiB at least, and 2\d\d MiB is free; .*could be freed/,
        );
        return true;
      });
      await s.queue.wait(await s.queue.add(s.payload('image-0')), { timeout: LIMIT });
      assert.doesNotMatch(worker.log(), /takes no more jobs until/);
      worker.kill('SIGTERM');
      await worker.ended;
      await s.queue.cancel(job.id).catch(() => {});
    }
  });
});

describe('a worker whose disk is filled by another program', { skip: unavailable(disk300) }, () => {
  it('removes images, and says once what it cannot remove', async () => {
    using disk = disk300();
    await using s = await stage({ root: join(disk.path, 'store') });
    const images = await pushImages(s, 3);
    const first = await s.worker();
    for (const prefix of images.keys()) await s.queue.wait(await s.queue.add(s.payload(prefix)), { timeout: LIMIT });
    first.kill('SIGTERM');
    await first.ended;
    const store = await openSnapshotter({ root: s.root, type: 'overlay', durable: false });
    try {
      for (const prefix of ['image-1', 'image-2']) await store.pinImage(s.payload(prefix).image ?? '', undefined, true);
      const { bavail, bsize } = statfsSync(disk.path);
      writeFileSync(join(disk.path, 'other'), Buffer.alloc(bavail * bsize - 10 * MIB));
      const worker = await s.worker({ UNPACK_GC_LOW: '20%', UNPACK_GC_HIGH: '35%' });
      await worker.logged(/no image can be removed/);
      const log = worker.log();
      assert.match(log, /removed registry.example\/image-0:app.*because less than 20% was free \(UNPACK_GC_LOW\)/);
      assert.match(
        log,
        /only \S+ MiB is free on the disk of \S+, less than UNPACK_GC_LOW=20%, and no image can be removed \(2 pinned\)/,
      );
      const there = (await store.walk({ kind: 'committed' })).map(({ name }) => name);
      const kept = ['image-1', 'image-2'].flatMap((prefix) => chain(images.get(prefix)));
      assert.deepEqual(there.sort(), [...new Set(kept)].sort());
    } finally {
      await store.close();
    }
  });
});
