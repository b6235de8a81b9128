import assert from 'node:assert/strict';
import { statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { diffTarget } from '../../src/diff/target.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { changeDatabase } from '../snapshots/temporary-store.ts';
import { startChild } from '../support/child.ts';
import { tmpfs, unavailable } from '../support/file-system.ts';
import { type Finished, finished, MAIN, runCli } from './run-cli.ts';

const MIB = 1 << 20;
const disk64 = () => tmpfs('size=64m');

/** A disk of 64 MiB with images `old`, `new` and `pinned` of 10 MiB each. */
async function bench() {
  const disk = disk64();
  const root = join(disk.path, 'store');
  const store = await openSnapshotter({ root, type: 'overlay' });
  for (const [index, name] of ['pinned', 'old', 'new'].entries()) {
    const chainId = `sha256:${String(index).repeat(64)}`;
    const { root } = diffTarget(await store.prepare(`prepare-${name}`, ''), 'nothing', store);
    writeFileSync(join(root, 'file'), Buffer.alloc(10 * MIB, 1));
    await store.commit(chainId, `prepare-${name}`, { synced: true, usage: { bytes: 10 * MIB, inodes: 2 } });
    await store.recordImage({ reference: name, platform: 'linux/amd64', chainId, source: '' }, new Map());
    await changeDatabase(store.root, `UPDATE images SET used = ${1000 + index} WHERE reference = '${name}'`);
  }
  await store.pinImage('pinned', undefined, true);
  await store.close();
  return {
    root,
    gc: (...args: readonly string[]): Promise<Finished> => runCli(['gc', '--root', root, ...args]),
    images: async () => {
      const opened = await openSnapshotter({ root, type: 'overlay' });
      try {
        return (await opened.images()).map(({ reference }) => reference);
      } finally {
        await opened.close();
      }
    },
    free: () => statfsSync(root).bavail * statfsSync(root).bsize,
    [Symbol.dispose]: () => disk[Symbol.dispose](),
  };
}

describe('gc', { skip: unavailable(disk64) }, () => {
  test('--dry-run shows what would go and why the rest stays, and removes nothing', async () => {
    using b = await bench();
    const { status, stdout, stderr } = await b.gc('--dry-run', '--until', '40MiB');
    assert.deepEqual([status, stderr], [0, '']);
    assert.match(stdout, /^3\d\.\d MiB of 6\d\.\d MiB is free on the disk of \S+; wanted: 40.0 MiB\n/);
    assert.match(
      stdout,
      /\nwould remove 1 image, which frees 10.0 MiB and 2 inodes:\nIMAGE +LAST USED\nold \(linux\/amd64\) +\d+ d ago +10.0 MiB and 2 inodes\n/,
    );
    assert.match(
      stdout,
      /\nwould stay:\nIMAGE +LAST USED\npinned \(linux\/amd64\) +\d+ d ago +pinned\nnew \(linux\/amd64\) +\d+ d ago +enough is free without it\n/,
    );
    assert.deepEqual(await b.images(), ['new', 'old', 'pinned']);
    const json = JSON.parse((await b.gc('--dry-run', '--until', '40MiB', '--json')).stdout);
    assert.deepEqual(
      json.removals.map(({ images }: { images: { reference: string }[] }) => images[0]?.reference),
      ['old'],
    );
    assert.deepEqual(
      json.kept.map(({ reason }: { reason: string }) => reason),
      ['pinned', 'spare'],
    );
    assert.equal(json.missing.bytes, 0);
  });

  test('removes the oldest images until enough is free, and says what it cannot remove', async () => {
    using b = await bench();
    const first = await b.gc('--until', '40MiB');
    assert.deepEqual([first.status, first.stderr], [0, '']);
    assert.match(
      first.stdout,
      /^removed old \(linux\/amd64\), last used \d+ d ago: 10.0 MiB and 2 inodes\nremoved 1 image; 4\d\.\d MiB of 6\d\.\d MiB is free\n$/,
    );
    assert.ok(b.free() >= 40 * MIB);
    assert.deepEqual(await b.images(), ['new', 'pinned']);
    const second = await b.gc('--until', '40MiB');
    assert.match(second.stdout, /^nothing to remove: 4\d\.\d MiB of 6\d\.\d MiB is free, and 40.0 MiB is wanted\n$/);
    const third = await b.gc('--until', '60MiB');
    assert.match(
      third.stdout,
      /\nremoved 1 image; 5\d\.\d MiB of \S+ MiB is free, \S+ MiB less than wanted\n\nnothing more can go:\nIMAGE .*\npinned .* pinned\n$/,
    );
    assert.deepEqual(await b.images(), ['pinned']);
  });

  test('removes nothing where mounts of other processes cannot be seen', async () => {
    using b = await bench();
    const args = [
      '--pid',
      '--fork',
      '--mount-proc',
      process.execPath,
      MAIN,
      'gc',
      '--root',
      b.root,
      '--until',
      '60MiB',
    ];
    const refused = await finished(startChild('unshare', args, { stdio: ['ignore', 'pipe', 'pipe'] }));
    assert.equal(refused.status, 1);
    assert.match(
      refused.stderr,
      /^unpackd: \[MOUNTS_UNSEEN\] no image is removed, because the mounts of other processes/,
    );
    const planned = await finished(
      startChild('unshare', [...args, '--dry-run'], { stdio: ['ignore', 'pipe', 'pipe'] }),
    );
    assert.equal(planned.status, 0);
    assert.match(planned.stdout, /\nnothing would be removed, because the mounts of other processes/);
    assert.deepEqual(await b.images(), ['new', 'old', 'pinned']);
  });

  test('needs to know how much must be free', async () => {
    const { status, stderr } = await runCli(['gc', '--root', '/nowhere']);
    assert.equal(status, 2);
    assert.match(stderr, /^unpackd: \[USAGE\] how much must be free is missing: write --until 20%/);
  });
});
