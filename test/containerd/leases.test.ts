import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import '../support/needs-root.ts';
import { type ContainerdClient, connectContainerd } from '../../src/grpc/client.ts';
import { removeLeftovers } from '../../src/rootfs/leftovers.ts';
import { type ContainerdOptions, openContainerdStore } from '../../src/snapshots/containerd/open.ts';
import type { ContainerdStore } from '../../src/snapshots/containerd/store.ts';
import { LABEL_SNAPSHOT_REF } from '../../src/snapshots/snapshotter.ts';
import { refused, writableTree } from '../snapshots/temporary-store.ts';
import { endChild, startChild } from '../support/child.ts';
import { scratch } from '../support/scratch.ts';
import { collect, snapshotNames, wireSnapshots } from './collect.ts';
import { Daemon, PROGRAMS, skipWithoutContainerd } from './daemon.ts';
import { freshOptions } from './temporary-store.ts';

const snapshotter = 'overlayfs';
const CHAIN = `sha256:${'c'.repeat(64)}`;

/** A store and a client of the same namespace, which stands for other users of containerd. */
interface Context {
  readonly store: ContainerdStore;
  readonly others: ContainerdClient;
  readonly options: ContainerdOptions;
}

for (const program of PROGRAMS) {
  describe(`leases in containerd ${program.version}`, { skip: skipWithoutContainerd() }, () => {
    let daemon: Daemon;
    before(async () => {
      daemon = await Daemon.start(program);
    });
    after(() => daemon[Symbol.asyncDispose]());

    const behaviour = (sentence: string, body: (context: Context) => Promise<void>) =>
      test(sentence, async () => {
        using place = scratch();
        const options = freshOptions(daemon, place.path);
        const store = await openContainerdStore(options);
        const others = connectContainerd(options);
        try {
          await body({ store, others, options });
        } finally {
          others.close();
          await store.close();
        }
      });

    behaviour('opening leaves no lease and no snapshot', async ({ others }) => {
      assert.deepEqual((await others.leases.List({})).leases, []);
      assert.deepEqual(await snapshotNames(others), []);
    });

    behaviour('keep what is made under them, until they end', async ({ store, others }) => {
      const lease = await store.lease([], {});
      const under = store.under(lease);
      await under.prepare('a', '');
      await under.commit('A', 'a');
      await under.prepare('b', 'A');
      await under.view('look', 'A');
      await collect(others);
      assert.deepEqual(await snapshotNames(others), ['A', 'b', 'look']);
      await lease[Symbol.asyncDispose]();
      await collect(others);
      assert.deepEqual(await snapshotNames(others), []);
      assert.deepEqual((await others.leases.List({})).leases, []);
    });

    behaviour('keep a layer of others from the look on', async ({ store, others }) => {
      await commitUnder('of-others', others, 'A');
      await using lease = await store.lease(['A', 'B'], {});
      const under = store.under(lease);
      assert.equal(await under.has('A'), true);
      assert.equal(await under.has('B'), false);
      await others.leases.Delete({ id: 'of-others' });
      await collect(others);
      assert.equal(await under.has('A'), true);
    });

    behaviour('a look without a lease keeps nothing', async ({ store, others }) => {
      await commitUnder('of-others', others, 'A');
      assert.equal(await store.has('A'), true);
      await others.leases.Delete({ id: 'of-others' });
      await collect(others);
      assert.equal(await store.has('A'), false);
    });

    behaviour('what is made without a lease stays until it is removed', async ({ store, others }) => {
      await store.prepare('a', '');
      await store.commit('A', 'a', { labels: { x: '1' } });
      await store.prepare('late', '');
      await store.commit('B', 'late', { parent: 'A' });
      await store.prepare('active', 'B');
      await store.update({ name: 'A', labels: { y: '2' } });
      await collect(others);
      assert.deepEqual(await snapshotNames(others), ['A', 'B', 'active']);
      assert.deepEqual((await store.stat('A')).labels, { y: '2' });
      for (const name of ['active', 'B', 'A']) await store.remove(name);
      assert.deepEqual(await snapshotNames(others), []);
    });

    behaviour('a leased layer cannot be removed by this program', async ({ store }) => {
      await store.prepare('a', '');
      await store.commit('A', 'a');
      const lease = await store.lease(['A'], { worker: 'w-1', job: 'j-1' });
      await refused(store.remove('A'), 'FailedPrecondition');
      await assert.rejects(store.remove('A'), /worker w-1, job j-1/);
      await lease[Symbol.asyncDispose]();
      await store.remove('A');
    });

    behaviour('of a dead process end with the next cleanup, and containerd collects the rest', async (context) => {
      const { store, others, options } = context;
      const { child, key } = await leaseHolder(options);
      assert.equal((await others.leases.List({})).leases.length, 1);
      await store.cleanup();
      assert.equal((await others.leases.List({})).leases.length, 1, 'its process lives');
      await endChild(child);
      assert.deepEqual(await store.keys(store.extraction), [key]);
      assert.equal(await removeLeftovers(store), 1);
      assert.deepEqual((await others.leases.List({})).leases, []);
      await collect(others);
      assert.deepEqual(await snapshotNames(others), []);
    });

    behaviour('of a dead process end with the next lease too', async ({ store, others, options }) => {
      const { child } = await leaseHolder(options);
      await endChild(child);
      await using lease = await store.lease([], {});
      assert.deepEqual(
        (await others.leases.List({})).leases.map(({ id }) => id),
        [store.under(lease).leaseId],
      );
      await collect(others);
      assert.deepEqual(await snapshotNames(others), []);
    });

    behaviour('a cleanup after a removal leaves no files', async ({ store }) => {
      const tree = writableTree(await store.prepare('a', ''));
      await store.remove('a');
      await store.cleanup();
      assert.equal(existsSync(tree), false);
    });

    behaviour('leftovers of others stay: containerd’s, and those of another state directory', async (context) => {
      const { store, others, options } = context;
      await others.leases.Create({ id: 'of-others' });
      const key = `extract-123-abcd ${CHAIN}`;
      await others.snapshots.Prepare({ snapshotter, key }, { lease: 'of-others' });
      using place = scratch();
      const neighbour = await openContainerdStore({ ...options, stateRoot: place.path });
      try {
        await using lease = await neighbour.lease([], {});
        const theirs = `${neighbour.extraction}1-abcd ${CHAIN}`;
        await neighbour.under(lease).prepare(theirs, '');
        assert.notEqual(neighbour.extraction, store.extraction);
        assert.equal(await removeLeftovers(store), 0);
        assert.deepEqual(await snapshotNames(others), [key, theirs].sort());
        assert.equal((await others.leases.List({})).leases.length, 2);
      } finally {
        await neighbour.close();
      }
    });

    behaviour('a layer that a pull has committed meanwhile is found by its label', async ({ store, others }) => {
      await commitUnder('of-others', others, CHAIN);
      await using lease = await store.lease([CHAIN], {});
      const under = store.under(lease);
      await refused(under.prepare('key', '', { labels: { [LABEL_SNAPSHOT_REF]: CHAIN } }), 'AlreadyExists');
      assert.equal(await under.has(CHAIN), true);
    });

    behaviour(
      'an active snapshot has the state directory’s ID as a label, which others do not see',
      async (context) => {
        const { store, others } = context;
        await store.prepare('a', '', { labels: { x: '1' } });
        const [wire] = await wireSnapshots(others);
        assert.equal(
          wire?.labels['unpackd.dev/state'],
          /^unpackd-([0-9a-f]{16})-extract-$/.exec(store.extraction)?.[1],
        );
        assert.deepEqual((await store.stat('a')).labels, { x: '1' });
      },
    );
  });
}

/** A process that holds a lease, and the key of the snapshot that it has prepared under the lease. */
async function leaseHolder({ socket, namespace, stateRoot }: ContainerdOptions) {
  const args = [join(import.meta.dirname, 'hold-lease.ts'), socket, namespace, stateRoot, CHAIN];
  const child = startChild(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  assert.ok(child.stdout !== null);
  const [line] = await once(child.stdout, 'data');
  return { child, key: String(line).trim() };
}

/** Makes a layer under a new lease, as a pull does. */
async function commitUnder(lease: string, { leases, snapshots }: ContainerdClient, name: string): Promise<void> {
  await leases.Create({ id: lease });
  await snapshots.Prepare({ snapshotter, key: 'a' }, { lease });
  await snapshots.Commit({ snapshotter, key: 'a', name }, { lease });
}
