import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Queue, Worker } from 'bullmq';
import { startRedis } from '../../dev/redis-server.ts';
import type { Check } from '../../src/doctor/check.ts';
import { checkCollector } from '../../src/doctor/collector.ts';
import { checkQueue } from '../../src/doctor/queue.ts';
import { checkRuntime } from '../../src/doctor/runtime.ts';
import { checkStore } from '../../src/doctor/store.ts';
import { ext4, tmpfs, unavailable } from '../support/file-system.ts';
import { scratch } from '../support/scratch.ts';

async function look(root: string): Promise<Map<string, Check>> {
  return new Map((await checkStore(root, 'overlay')).map((check) => [check.name, check]));
}

/** Fills a file system until a write is refused. */
function fill(write: (count: number) => void): void {
  for (let count = 0; ; count += 1) {
    try {
      write(count);
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
      return;
    }
  }
}

describe('the doctor checks the store', {
  skip: unavailable(() => ext4()) || unavailable(() => tmpfs('size=1m')),
}, () => {
  test('no free space is a failure', async () => {
    using disk = ext4();
    mkdirSync(join(disk.path, 'store'));
    const piece = Buffer.alloc(1 << 20);
    fill((count) => writeFileSync(join(disk.path, `${count}`), piece));
    fill((count) => writeFileSync(join(disk.path, `small-${count}`), 'x'));
    const space = (await look(join(disk.path, 'store'))).get('Space');
    assert.equal(space?.status, 'fail');
    assert.match(space?.finding ?? '', /^0 B .*the file system is full/);
    assert.match(space?.advice ?? '', /unpackd snapshots/);
  });

  test('no free inode is a failure, even if the other checks cannot run', async () => {
    using disk = ext4(['-N', '16']);
    fill((count) => writeFileSync(join(disk.path, `${count}`), ''));
    const checks = await look(join(disk.path, 'store'));
    assert.equal(checks.get('Space')?.status, 'fail');
    assert.match(checks.get('Space')?.finding ?? '', /0 inodes: no inode is left/);
    assert.equal(checks.get('Store')?.status, 'fail');
    assert.doesNotMatch(checks.get('Store')?.advice ?? '', /root/);
  });

  test('a store in memory is a warning', async () => {
    using disk = tmpfs('size=64m');
    const store = (await look(join(disk.path, 'store'))).get('Store');
    assert.equal(store?.status, 'warn');
    assert.match(store?.finding ?? '', /on tmpfs: .*lost when the machine restarts/);
  });

  test('a store on an overlay is reported with advice', async () => {
    using folder = scratch();
    const at = (name: string) => join(folder.path, name);
    for (const name of ['lower', 'upper', 'work', 'merged']) mkdirSync(at(name));
    const options = `lowerdir=${at('lower')},upperdir=${at('upper')},workdir=${at('work')}`;
    execFileSync('mount', ['-t', 'overlay', 'overlay', '-o', options, at('merged')]);
    try {
      const checks = await look(join(at('merged'), 'store'));
      const overlay = checks.get('Overlay');
      assert.equal(overlay?.status, 'fail');
      assert.match(overlay?.finding ?? '', /is on an overlay/);
      assert.match(overlay?.advice ?? '', /mount a volume/);
      assert.equal(checks.has('Whiteouts'), false, 'one fault is told once');
    } finally {
      execFileSync('umount', [at('merged')]);
    }
  });

  test('root is never told to run as root', async () => {
    for (const root of ['/proc/nowhere', '/sys/nowhere']) {
      const checks = await checkStore(root, 'overlay');
      assert.equal(checks[0]?.status, 'fail');
      for (const { advice } of checks) assert.doesNotMatch(advice ?? '', /run as root/);
    }
  });
});

test('the doctor names optional programs and the code that hashes and decompresses', async () => {
  const found = new Map((await checkRuntime('keep', true)).map((check) => [check.name, check]));
  assert.match(found.get('Programs')?.finding ?? '', /xz/);
  assert.match(found.get('Inflating gzip')?.finding ?? '', /ISA-L|libisal2/);
  assert.match(found.get('Inflating zstd')?.finding ?? '', /zstd inside Node; .* test passed/);
  assert.match(found.get('Digests')?.finding ?? '', /OpenSSL inside Node; .* test passed/);
  assert.equal(found.get('Programs')?.status, 'ok');
});

describe('the doctor checks the queue', () => {
  let redis: Awaited<ReturnType<typeof startRedis>>;
  before(async () => {
    redis = await startRedis();
  });
  after(() => redis.stop());

  test('counts its jobs, names the age of the oldest, and lists the workers', async () => {
    const settings = { REDIS_URL: redis.url, UNPACK_QUEUE: 'looked-at', UNPACK_REDIS_PREFIX: 'p' };
    const connection = { host: '127.0.0.1', port: redis.port };
    const checks = async () => new Map((await checkQueue(settings)).map((check) => [check.name, check]));
    const queue = new Queue('looked-at', { connection, prefix: 'p' });
    try {
      const empty = await checks();
      assert.deepEqual([empty.get('Queue')?.status, empty.get('Workers')?.status], ['ok', 'ok']);

      await queue.add('unpack', {}, { timestamp: Date.now() - 3 * 3_600_000 });
      await queue.add('unpack', {}, { priority: 7 });
      await queue.add('unpack', {}, { delay: 600_000 });
      const waiting = await checks();
      assert.match(waiting.get('Queue')?.finding ?? '', /2 waiting, 0 running, 1 delayed, 0 failed; .*3 h/);
      assert.equal(waiting.get('Workers')?.status, 'warn');
      assert.match(waiting.get('Workers')?.advice ?? '', /unpackd worker/);

      const fails = async () => {
        throw new Error('on purpose');
      };
      const worker = new Worker('looked-at', fails, { connection, prefix: 'p', name: 'host:1' });
      worker.on('error', () => {});
      await new Promise<void>((resolve) => {
        let failed = 0;
        worker.on('failed', () => {
          failed += 1;
          if (failed === 2) resolve();
        });
      });
      const worked = await checks();
      assert.match(worked.get('Queue')?.finding ?? '', /0 waiting, 0 running, 1 delayed, 2 failed$/);
      assert.match(worked.get('Workers')?.finding ?? '', /^1 connected: host:1$/);
      await worker.close();

      await queue.pause();
      assert.match((await checks()).get('Queue')?.finding ?? '', /the queue is paused/);
    } finally {
      await queue.close();
    }
  });
});

describe('the doctor checks garbage collection', () => {
  test('it is off, it fits the disk, or it does not', async () => {
    using folder = scratch();
    const root = join(folder.path, 'store');
    const check = async (low: number, high: number) =>
      checkCollector(root, { low: { percent: low }, high: { bytes: high } });
    assert.match((await checkCollector(root, undefined)).finding, /^off: UNPACK_GC_LOW and UNPACK_GC_HIGH are not set/);
    const wrong = await check(1, 1024 ** 5);
    assert.equal(wrong.status, 'fail');
    assert.match(wrong.finding, /^UNPACK_GC_HIGH=1024 TiB can never be free, because the disk of \S+ has /);
    assert.match((await check(90, 1 << 20)).finding, /^UNPACK_GC_LOW=90% is not less than UNPACK_GC_HIGH=1.0 MiB/);
  });
});
