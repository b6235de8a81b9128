import assert from 'node:assert/strict';
import { rename } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import '../support/needs-root.ts';
import { type ContainerdClient, connectContainerd } from '../../src/grpc/client.ts';
import { GrpcError } from '../../src/grpc/errors.ts';
import { ContainerdLease, ContainerdLeases } from '../../src/snapshots/containerd/leases.ts';
import { Opened } from '../../src/snapshots/containerd/opened.ts';
import { openState } from '../../src/snapshots/containerd/state.ts';
import { ContainerdStore } from '../../src/snapshots/containerd/store.ts';
import { Leases } from '../../src/snapshots/leases.ts';
import { isSnapshotError } from '../../src/snapshots/snapshotter.ts';
import { writableTree } from '../snapshots/temporary-store.ts';
import { scratch } from '../support/scratch.ts';
import { Daemon, PROGRAMS, skipWithoutContainerd } from './daemon.ts';
import { freshOptions } from './temporary-store.ts';

/** What of a snapshot stays in the memory of a worker, which runs for months. */
for (const program of PROGRAMS) {
  describe(`snapshots that a store remembers, containerd ${program.version}`, { skip: skipWithoutContainerd() }, () => {
    let daemon: Daemon;
    before(async () => {
      daemon = await Daemon.start(program);
    });
    after(() => daemon[Symbol.asyncDispose]());

    /** A store whose calls of these methods fail as long as they are in `failing`. */
    const withFailures = async (
      body: (context: { store: ContainerdStore; opened: Opened; failing: Set<string> }) => Promise<void>,
    ): Promise<void> => {
      using place = scratch();
      const options = freshOptions(daemon, place.path);
      const root = join(daemon.directory, 'root/io.containerd.snapshotter.v1.overlayfs');
      const failing = new Set<string>();
      const client = failingClient(connectContainerd(options), failing);
      const state = await openState(place.path);
      const files = new Leases(state.path);
      const leases = new ContainerdLeases(client, options.snapshotter, state, files);
      const { socket, namespace, snapshotter } = options;
      const at = { socket, namespace, snapshotter, root, canRebase: false, overlayXattrs: 'trusted' } as const;
      const opened = new Opened({ client, place: at, state, durable: false, files, leases });
      const store = new ContainerdStore(opened);
      try {
        await body({ store, opened, failing });
      } finally {
        await removeAll(store);
        assert.equal(opened.active.size, 0);
        assert.equal(opened.durability.pending, 0);
        await store.close();
      }
    };

    for (const under of ['a lease', 'no lease']) {
      test(`none after a commit that failed, under ${under}`, () =>
        withFailures(async ({ store: whole, opened, failing }) => {
          await using lease = under === 'a lease' ? await whole.lease([], {}) : undefined;
          const store = lease === undefined ? whole : whole.under(lease);
          const remembered = () => [...opened.active.keys(), ...activeOf(lease)];
          await store.prepare('base-key', '');
          await store.commit('base', 'base-key', { synced: true });
          await store.prepare('taken-key', '');
          await store.commit('taken', 'taken-key', { synced: true });
          assert.deepEqual(remembered(), []);

          await assert.rejects(store.prepare('key', 'nothing'));
          assert.deepEqual(remembered(), [], 'after a prepare on a parent that is missing');
          const tree = writableTree(await store.prepare('key', ''));
          await assert.rejects(store.prepare('key', ''));
          const failures: readonly (readonly string[])[] = [
            ['Commit'],
            ['Commit', 'Remove'],
            ['Prepare', 'View'],
            ['Remove'],
          ];
          for (const [index, methods] of failures.entries()) {
            for (const method of methods) failing.add(method);
            const commit = store.commit(index === 3 ? 'taken' : `name-${index}`, 'key', { parent: 'base' });
            await assert.rejects(commit);
            assert.deepEqual(remembered(), ['key'], `after failures of ${methods.join(' and ')}`);
            failing.clear();
            // an unknown end of the commit has left the files in the second snapshot
            if (methods[0] === 'Commit') await restore(store, tree);
          }
          await assert.rejects(store.commit('name', 'key', { parent: 'nothing' }));
          await rename(tree, `${tree}.aside`);
          await assert.rejects(store.commit('name', 'key', { parent: 'base' }));
          await rename(`${tree}.aside`, tree);
          assert.deepEqual(remembered(), ['key']);

          failing.add('Remove');
          await assert.rejects(store.remove('key'));
          failing.clear();
          assert.deepEqual(remembered(), [], 'after a removal that failed');
        }));
    }

    test('none of a job that has ended without its removals', () =>
      withFailures(async ({ store, opened }) => {
        const lease = await store.lease([], {});
        await store.under(lease).prepare('key', '');
        await lease[Symbol.asyncDispose]();
        assert.deepEqual([...opened.active.keys()], []);
        await daemon.collect();
      }));

    test('a layer that was not synced, until it is, or is removed', () =>
      withFailures(async ({ store, opened }) => {
        for (const name of ['removed', 'collected', 'synced']) {
          await store.prepare(`${name}-key`, '');
          await store.commit(name, `${name}-key`);
        }
        assert.equal(opened.durability.pending, 3);
        await store.remove('removed');
        await daemon.client(opened.place.namespace).snapshots.Remove({ snapshotter: 'overlayfs', key: 'collected' });
        assert.equal(opened.durability.pending, 2);
        // another process makes a layer of the same name, which this one's sync possibly did not include
        const other = daemon.client(opened.place.namespace).snapshots;
        const labels = { 'containerd.io/gc.root': 'now' };
        await other.Prepare({ snapshotter: 'overlayfs', key: 'other', labels });
        await other.Commit({ snapshotter: 'overlayfs', key: 'other', name: 'collected', labels });
        await store.sync();
        assert.equal(opened.durability.pending, 0);
        assert.deepEqual([(await store.stat('collected')).synced, (await store.stat('synced')).synced], [false, true]);
      }));
  });
}

function failingClient(client: ContainerdClient, failing: ReadonlySet<string>): ContainerdClient {
  const snapshots = { ...client.snapshots };
  for (const method of ['Prepare', 'View', 'Commit', 'Remove'] as const) {
    const call = client.snapshots[method] as (...args: unknown[]) => Promise<never>; // all are unary
    snapshots[method] = async (...args: unknown[]) => {
      if (failing.has(method)) throw new GrpcError(method, 'UNAVAILABLE', 'the connection is broken');
      return await call(...args);
    };
  }
  return { ...client, snapshots };
}

/** Removes all snapshots, those without children first. */
async function removeAll(store: ContainerdStore): Promise<void> {
  const left = new Map((await store.walk()).map(({ name, parent }) => [name, parent]));
  while (left.size > 0) {
    const parents = new Set(left.values());
    for (const name of [...left.keys()].filter((each) => !parents.has(each))) {
      // containerd may collect what was under the lease at the same time
      await store.remove(name).catch((error: unknown) => {
        if (!isSnapshotError(error, 'NotFound')) throw error;
      });
      left.delete(name);
    }
  }
}

/** The keys that a lease of the store remembers. */
function activeOf(lease: unknown): string[] {
  return lease instanceof ContainerdLease ? [...lease.active.keys()] : [];
}

/** Moves the tree of a snapshot back from the second one, if an exchange has begun. */
async function restore(store: ContainerdStore, tree: string): Promise<void> {
  for (const key of await store.keys(store.extraction)) {
    const second = writableTree(await store.mounts(key));
    await rename(second, tree).catch((error: unknown) => {
      throw new Error(`no tree ${basename(dirname(second))} to restore`, { cause: error });
    });
    await store.remove(key);
  }
}
