import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, readdirSync, rmSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { ChainLocks } from '../../src/rootfs/chain-locks.ts';
import { StoreProbe } from '../../src/rootfs/store-probe.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { startChild } from '../support/child.ts';
import { ext4, readOnlySwitch, shutdown, tmpfs, unavailable } from '../support/file-system.ts';

const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` };
const noFreeze = (): string | false => {
  try {
    execFileSync('fsfreeze', ['--version'], { env, stdio: 'ignore' });
    return unavailable(() => ext4());
  } catch {
    return 'fsfreeze (util-linux) is not installed';
  }
};

/** An overlay store and its probe. */
async function probedStore(root: string) {
  const snapshotter = await openSnapshotter({ root, type: 'overlay' });
  return {
    snapshotter,
    probe: new StoreProbe(snapshotter, new ChainLocks(snapshotter.state)),
    [Symbol.asyncDispose]: () => snapshotter.close(),
  };
}

describe('the probe of a store', { skip: unavailable(() => ext4()) }, () => {
  it('succeeds on a store that can be written, and leaves nothing behind', async () => {
    using disk = ext4();
    const root = join(disk.path, 'store');
    await using store = await probedStore(root);
    const { snapshotter, probe } = store;
    await Promise.all([
      probe.check(),
      new StoreProbe(snapshotter, new ChainLocks(snapshotter.state)).check(),
      probe.check(),
    ]);
    await probe.tidy();
    assert.deepEqual(await snapshotter.walk(), []);
    assert.deepEqual([readdirSync(join(root, 'snapshots')), readdirSync(join(root, 'locks'))], [['store.json'], []]);
  });

  it('fails with the reason on a store that is read-only or whose disk is gone', async () => {
    using disk = ext4();
    const root = join(disk.path, 'store');
    await using store = await probedStore(root);
    const { probe } = store;
    using readOnly = readOnlySwitch(join(root, 'snapshots'));
    readOnly.set(true);
    await assert.rejects(probe.check(), { code: 'STORE_FAILED', message: /EROFS/ });
    readOnly.set(false);
    await probe.check();
    shutdown(disk.path);
    await assert.rejects(probe.check(), { code: 'STORE_FAILED', message: /EIO|EUCLEAN/ });
    await probe.tidy();
  });

  it('fails after ten seconds on a store that hangs, and blocks nothing else', { skip: noFreeze() }, async () => {
    using disk = ext4();
    await using stack = new AsyncDisposableStack();
    const snapshotter = await openSnapshotter({ root: join(disk.path, 'store'), type: 'overlay' });
    stack.defer(() => snapshotter.close());
    const probe = new StoreProbe(snapshotter, new ChainLocks(snapshotter.state));
    execFileSync('fsfreeze', ['-f', disk.path], { env });
    try {
      let turns = 0;
      const ticking = setInterval(() => turns++, 10);
      await assert.rejects(probe.check(), { code: 'STORE_FAILED', message: /within 10 s: the disk hangs/ });
      clearInterval(ticking);
      assert.ok(turns > 50, `${turns} turns of the event loop`);
    } finally {
      execFileSync('fsfreeze', ['-u', disk.path], { env });
    }
    await probe.check();
  });
});

/** Removes lock files that nobody holds, again and again, and holds each one for a moment. */
const TIDYING = `
  import { ChainLocks } from ${JSON.stringify(new URL('../../src/rootfs/chain-locks.ts', import.meta.url))};
  const locks = new ChainLocks(process.argv[1]);
  for (let round = 0; ; round++) {
    await locks.tidy();
    if (round === 0) process.stdout.write('begun\\n');
  }`;

describe('the probe of a full store', { skip: unavailable(() => tmpfs('size=16m')) }, () => {
  it('fails each time, also if another process takes the lock of the probe for leftovers', async () => {
    using disk = tmpfs('size=16m');
    const root = join(disk.path, 'store');
    await using store = await probedStore(root);
    const { bavail, bsize } = statfsSync(disk.path);
    appendFileSync(join(disk.path, 'ballast'), Buffer.alloc(bavail * bsize - (700 << 10)));
    await using child = startChild(process.execPath, ['--input-type=module', '-e', TIDYING, root], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    assert.ok(child.stdout !== null);
    await once(child.stdout, 'data');
    for (let round = 0; round < 200; round++) {
      await assert.rejects(store.probe.check(), { code: 'STORE_FULL' }, `round ${round}`);
    }
    assert.equal(child.exitCode, null);
  });

  it('fails without room for a megabyte, and succeeds once there is room', async () => {
    using disk = tmpfs('size=16m');
    await using stack = new AsyncDisposableStack();
    const root = join(disk.path, 'store');
    const snapshotter = await openSnapshotter({ root, type: 'overlay' });
    stack.defer(() => snapshotter.close());
    const probe = new StoreProbe(snapshotter, new ChainLocks(snapshotter.state));
    const ballast = join(disk.path, 'ballast');
    const { bavail, bsize } = statfsSync(disk.path);
    appendFileSync(ballast, Buffer.alloc(bavail * bsize - (700 << 10)));
    await assert.rejects(probe.check(), { code: 'STORE_FULL', message: /\d+ bytes and \d+ inodes free/ });
    assert.deepEqual(await snapshotter.walk(), []);
    rmSync(ballast);
    await probe.check();
  });
});
