import assert from 'node:assert/strict';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { Collector } from '../../src/collector/collector.ts';
import { removeLeftovers } from '../../src/rootfs/leftovers.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { recoverStore } from '../../src/snapshots/recover.ts';
import type { OwnStore } from '../../src/snapshots/store.ts';
import { openStoreThread } from '../../src/snapshots/store-thread.ts';
import { now } from '../../src/system/clock.ts';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';
import { runCli } from '../cli/run-cli.ts';
import { scratch } from '../support/scratch.ts';
import { changeDatabase, refused } from './temporary-store.ts';

type Open = typeof openSnapshotter;

/** A store with the layers `base` ← `top`, which no image and no containerd knows. */
async function withLayers(open: Open, body: (store: OwnStore, root: string) => Promise<void>): Promise<void> {
  using place = scratch();
  const root = join(place.path, 'store');
  const store = await open({ root, type: 'overlay' });
  try {
    await layer(store, 'base', '');
    await layer(store, 'top', 'base');
    await body(store, root);
  } finally {
    await store.close();
  }
}

async function layer(store: OwnStore, name: string, parent: string): Promise<void> {
  await store.prepare(`of ${name}`, parent);
  await store.commit(name, `of ${name}`, { synced: true, usage: { bytes: 4096, inodes: 1 } });
}

const claims = async (store: OwnStore) =>
  Object.fromEntries((await store.walk()).map(({ name, claim }) => [name, claim ?? '']));

for (const [where, open] of [
  ['on this thread', openSnapshotter],
  ['on a thread of its own', openStoreThread],
] as const) {
  const behaviour = (sentence: string, body: (store: OwnStore, root: string) => Promise<void>) =>
    test(sentence, () => withLayers(open, body));

  describe(`claims of containerd, ${where}`, () => {
    behaviour('adopting a layer claims it and all below it', async (store) => {
      assert.deepEqual(await claims(store), { base: '', top: '' });
      assert.equal(await store.adopt('top', 'base'), true);
      assert.deepEqual(await claims(store), { base: 'adopted', top: 'adopted' });
      assert.equal(await store.adopt('top', 'base'), true);
    });

    behaviour('a layer is adopted only with the parent that containerd knows', async (store) => {
      assert.equal(await store.adopt('top', ''), false);
      assert.equal(await store.adopt('base', 'top'), false);
      assert.equal(await store.adopt('nothing', ''), false);
      await store.prepare('key', 'top');
      assert.equal(await store.adopt('key', 'top'), false);
      assert.deepEqual(await claims(store), { base: '', key: '', top: '' });
    });

    behaviour('a layer whose directory is gone is not adopted', async (store, root) => {
      rmSync(join(root, 'snapshots/1'), { recursive: true });
      assert.equal(await store.adopt('base', ''), false);
      assert.equal(await store.has('base'), false);
    });

    behaviour('a snapshot made for containerd is claimed, and so is what it stands on', async (store) => {
      await store.prepare('default/1/key', 'top', { claimed: true });
      await store.view('default/2/look', 'top', { claimed: true });
      const expected = { base: 'adopted', top: 'adopted', 'default/2/look': 'made' };
      assert.deepEqual(await claims(store), { ...expected, 'default/1/key': 'made' });
      await store.commit('default/3/name', 'default/1/key', { synced: true });
      assert.deepEqual(await claims(store), { ...expected, 'default/3/name': 'made' });
    });

    behaviour('remove refuses what containerd knows, and names containerd', async (store) => {
      await store.prepare('default/1/key', 'top', { claimed: true });
      for (const key of ['default/1/key', 'top']) await refused(store.remove(key), 'FailedPrecondition');
      await store.release('default/1/key');
      await assert.rejects(store.remove('top'), {
        message:
          "snapshot top can't be removed: containerd uses it; remove its image (ctr images rm, crictl rmi) there first, or if that containerd is gone, run unpackd snapshots release",
      });
    });

    behaviour('releasing an adopted layer leaves it, from the top down', async (store) => {
      await store.adopt('top', 'base');
      await refused(store.release('base'), 'FailedPrecondition');
      await store.release('top');
      await store.release('base');
      assert.deepEqual(await claims(store), { base: '', top: '' });
      await store.remove('top');
    });

    behaviour('a layer that a job unpacks on a claimed one does not keep the claim', async (store) => {
      await store.adopt('base', '');
      await store.prepare('extract-1-a', 'base');
      await store.release('base');
      assert.deepEqual(await claims(store), { base: '', 'extract-1-a': '', top: '' });
    });

    behaviour('releasing a snapshot that was made for containerd removes it', async (store) => {
      await store.prepare('default/1/key', 'top', { claimed: true });
      await store.commit('default/2/name', 'default/1/key', { synced: true });
      await store.prepare('default/3/key', 'default/2/name', { claimed: true });
      await refused(store.release('default/2/name'), 'FailedPrecondition');
      await store.release('default/3/key');
      await store.release('default/2/name');
      assert.deepEqual(Object.keys(await claims(store)), ['base', 'top']);
      await refused(store.release('default/2/name'), 'NotFound');
    });

    behaviour('changing all labels keeps the claim', async (store) => {
      await store.adopt('base', '');
      const updated = await store.update({ name: 'base', labels: { a: '1' } });
      assert.equal(updated.claim, 'adopted');
      assert.equal((await store.stat('base')).claim, 'adopted');
    });

    behaviour('the collector leaves what containerd knows, and tells so', async (store) => {
      await layer(store, 'other', '');
      await store.adopt('top', 'base');
      const collector = new Collector(store, undefined);
      const { removals, kept } = await collector.plan({ bytes: Number.MAX_SAFE_INTEGER, inodes: 0 });
      assert.deepEqual(
        removals.map(({ top }) => top),
        ['other'],
      );
      assert.deepEqual(kept.map(({ top, why }) => [top, why]).sort(), [
        ['base', 'used by containerd'],
        ['top', 'used by containerd'],
      ]);
    });

    behaviour('the removal of leftovers never touches the active snapshots of containerd', async (store) => {
      // a namespace of containerd can begin as the keys of our own extraction snapshots do
      const digest = `sha256:${'a'.repeat(64)}`;
      const keys = [`default/1/extract-1-a ${digest}`, `extract-me/2/extract-1-a ${digest}`];
      for (const key of keys) await store.prepare(key, 'top', { claimed: true });
      await store.prepare(`extract-1-b ${digest}`, 'top');
      assert.equal(await removeLeftovers(store), 1);
      assert.deepEqual(Object.keys(await claims(store)), ['base', ...keys, 'top'].sort());
    });
  });
}

test('a lost database is rebuilt with the claims', async () => {
  await withLayers(openSnapshotter, async (store, root) => {
    await store.adopt('base', '');
    await store.adopt('top', 'base');
    await store.release('top');
    await store.prepare('default/1/key', 'base', { claimed: true });
    await store.prepare('default/2/key', 'base', { claimed: true });
    await store.commit('default/3/name', 'default/2/key', { synced: true });
    const before = await claims(store);
    await store.close();
    for (const end of ['', '-wal', '-shm']) rmSync(join(root, `metadata.db${end}`), { force: true });
    await recoverStore(root);
    const again = await openSnapshotter({ root, type: 'overlay' });
    try {
      assert.deepEqual(await claims(again), before);
      assert.deepEqual(before, { base: 'adopted', 'default/1/key': 'made', 'default/3/name': 'made', top: '' });
    } finally {
      await again.close();
    }
  });
});

test('a claim that an older copy of the database does not have is in the records', async () => {
  await withLayers(openSnapshotter, async (store, root) => {
    await store.adopt('top', 'base');
    await store.close();
    changeDatabase(root, 'UPDATE snapshots SET claim = NULL');
    await recoverStore(root);
    const again = await openSnapshotter({ root, type: 'overlay' });
    try {
      assert.deepEqual(await claims(again), { base: 'adopted', top: 'adopted' });
    } finally {
      await again.close();
    }
  });
});

test('unpackd snapshots release ends the claims of a containerd that is gone', async () => {
  await withLayers(openSnapshotter, async (store, root) => {
    await store.prepare('default/1/key', 'top', { claimed: true });
    await store.commit('default/2/name', 'default/1/key', { synced: true });
    await store.prepare('default/3/box', 'default/2/name', { claimed: true });
    await store.close();
    const release = (...keys: string[]) => runCli(['snapshots', 'release', ...keys, '--root', root, '--json']);
    const inUse = await release('default/2/name');
    assert.equal(JSON.parse(inUse.stdout).error.code, 'SNAPSHOT_IN_USE');
    const { status, stdout } = await release();
    assert.equal(status, 0);
    assert.deepEqual(JSON.parse(stdout), {
      removed: ['default/3/box', 'default/2/name'],
      released: ['top', 'base'],
    });
    const again = await openSnapshotter({ root, type: 'overlay' });
    try {
      assert.deepEqual(await claims(again), { base: '', top: '' });
    } finally {
      await again.close();
    }
  });
});

test('unpackd snapshots release refuses while a container has its snapshot mounted', async () => {
  await withLayers(openSnapshotter, async (store, root) => {
    const mounts = await store.prepare('default/1/box', 'top', { claimed: true });
    const point = join(root, '../box');
    mkdirSync(point);
    await mountSnapshot(mounts, point);
    try {
      const { status, stderr } = await runCli(['snapshots', 'release', '--root', root]);
      assert.equal(status, 1);
      assert.match(stderr, /is mounted at .*box, as process \d+ sees it: end the containers/);
      assert.equal((await store.stat('default/1/box')).claim, 'made');
    } finally {
      await unmountSnapshot(point);
    }
  });
});

test('a layer that is unpacked again, because it was broken, keeps the claim', async () => {
  await withLayers(openSnapshotter, async (store, root) => {
    await store.adopt('top', 'base');
    await store.close();
    rmSync(join(root, 'snapshots/1'), { recursive: true });
    const again = await openSnapshotter({ root, type: 'overlay' });
    try {
      await layer(again, 'base', '');
      assert.deepEqual(await claims(again), { base: 'adopted', top: 'adopted' });
      assert.equal(await again.has('top'), true);
    } finally {
      await again.close();
    }
  });
});

test('times have nanoseconds, and an update changes only the time of the update', async () => {
  await withLayers(openSnapshotter, async (store) => {
    const nanoseconds = (milliseconds: number, rest = 0) => BigInt(milliseconds) * 1_000_000n + BigInt(rest);
    const clock = () => {
      const { milliseconds, nanoseconds: rest } = now();
      return nanoseconds(milliseconds, rest);
    };
    const times = async () => {
      const { created, updated, nanoseconds: rest } = await store.stat('key');
      return {
        created: nanoseconds(created.getTime(), rest?.created),
        updated: nanoseconds(updated.getTime(), rest?.updated),
      };
    };
    const before = clock();
    await store.prepare('key', '');
    const first = await times();
    assert.ok(first.created > before && first.created < clock());
    assert.equal(first.updated, first.created);
    const between = clock();
    await store.update({ name: 'key', labels: {} });
    const second = await times();
    assert.equal(second.created, first.created);
    assert.ok(second.updated > between && second.updated < clock());
  });
});

test('a store of version 4 of the schema is upgraded: no claims, and times without nanoseconds', async () => {
  await withLayers(openSnapshotter, async (store, root) => {
    const before = await store.stat('top');
    await store.close();
    changeDatabase(
      root,
      `ALTER TABLE snapshots DROP COLUMN claim; ALTER TABLE snapshots DROP COLUMN created_nanos;
      ALTER TABLE snapshots DROP COLUMN updated_nanos; PRAGMA user_version = 4`,
    );
    const again = await openSnapshotter({ root, type: 'overlay' });
    try {
      assert.deepEqual(await again.stat('top'), { ...before, nanoseconds: { created: 0, updated: 0 } });
      assert.equal(await again.adopt('top', 'base'), true);
    } finally {
      await again.close();
    }
  });
});
