import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, readdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { Failure } from '../../src/queue/formats.ts';
import { type Disk, ext4, tmpfs, unavailable } from '../support/file-system.ts';
import { imageOf } from '../support/layout.ts';
import { referenceTrees } from '../support/store-trees.ts';
import { chainOf, type Stage, someLayer, stage, until } from './stage.ts';

/** Enough attempts for the test, with pauses long enough to look at the store. */
const PATIENT = { UNPACK_BACKOFF: '3s', UNPACK_ATTEMPTS: '20' };

const DISKS: Readonly<Record<string, () => Disk>> = {
  tmpfs: () => tmpfs('size=64m,nr_inodes=16384'),
  ext4: () => ext4(),
};

/** Fills the disk with a file, except for so many bytes. The file is removed with the folder. */
function leaveBytes(folder: string, bytes: number): void {
  const free = () => {
    const { bavail, bsize } = statfsSync(folder);
    return bavail * bsize;
  };
  while (free() > bytes) appendFileSync(join(folder, 'file'), Buffer.alloc(Math.min(1 << 20, free() - bytes)));
}

/** Uses up all inodes except so many. */
function leaveInodes(folder: string, inodes: number): void {
  for (let left = statfsSync(folder).ffree - inodes; left > 0; left--) writeFileSync(join(folder, `${left}`), '');
}

/** The failure of the job's first attempt, read while the job waits for the next. */
async function firstFailure(s: Stage, id: string): Promise<Failure> {
  await until(async () => (await s.queue.status(id)).state === 'delayed', 120_000);
  const { failure } = await s.queue.status(id);
  assert.ok(failure);
  return failure;
}

for (const [type, make] of Object.entries(DISKS)) {
  describe(`a store on ${type} that is full halfway through a layer`, { skip: unavailable(make) }, () => {
    const cases = [
      ['of bytes', (ballast: string) => leaveBytes(ballast, 9 << 20), /ENOSPC/],
      ['of inodes', (ballast: string) => leaveInodes(ballast, 2000), /ENOSPC/],
    ] as const;
    for (const [what, leave, error] of cases) {
      it(`${what}: STORE_FULL, no leftovers, and with room the job reuses the layers below`, async () => {
        using disk = make();
        await using s = await stage({ root: join(disk.path, 'store') });
        // small files, so that bytes or inodes can run out: about 1.2 MiB and 300 inodes, then 12 MiB and 3,000 inodes
        const [small, large] = [someLayer('small', 300, 2000), someLayer('large', 3000, 2000)];
        const image = imageOf([small, large]);
        await s.push('full', { app: image });
        await s.push('below', { app: imageOf([small]) });
        const worker = await s.worker(PATIENT);
        // one layer at a time, because two would race for the room
        await s.queue.wait(await s.queue.add(s.payload('below')), { timeout: 120_000 });
        const ballast = join(disk.path, 'ballast');
        mkdirSync(ballast);
        leave(ballast);

        const job = await s.queue.add(s.payload('full'));
        const failure = await firstFailure(s, job.id);
        assert.equal(failure.code, 'STORE_FULL');
        assert.equal(failure.retryable, true);
        assert.equal(failure.layerIndex, 1);
        assert.match(failure.message, /^layer 2 of 2 \(sha256:\w+…\): /);
        assert.ok(failure.message.includes(`${s.root}/snapshots/`), failure.message);
        assert.match(
          failure.message,
          /\(\d+ bytes and \d+ inodes free\): the entry "large\/\d+" at byte \d+ of the tar: /,
        );
        assert.match(failure.message, error);
        assert.match(failure.message, /unpackd gc --until 20%, unpackd images rm, unpackd snapshots cleanup/);
        await until(() => readdirSync(join(s.root, 'snapshots')).length === 2); // store.json is the other; files go in the background
        await s.assertClean(chainOf(image).slice(0, 1));
        assert.deepEqual(s.locks(), []);

        rmSync(ballast, { recursive: true });
        const result = await s.queue.wait(job, { timeout: 120_000 });
        assert.deepEqual(
          result.images[0]?.layers.map(({ state }) => state),
          ['existed', 'applied'],
        );
        assert.deepEqual(await s.stored(), await referenceTrees({ app: image }));
        await s.assertClean(chainOf(image));
        assert.equal(worker.child.exitCode, null);
      });
    }
  });
}
