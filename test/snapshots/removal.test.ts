import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import '../support/needs-root.ts';
import { Leases } from '../../src/snapshots/leases.ts';
import { SWEEP } from '../../src/snapshots/snapshot-store.ts';
import { Random } from '../fuzz/random.ts';
import { startChild } from '../support/child.ts';
import { eventually } from '../support/eventually.ts';
import { inNamespace } from '../support/mount-namespace.ts';
import { changeDatabase, directoriesIn, type TemporaryStore, withStore } from './temporary-store.ts';

/** A store with the layers 1 and 2, of which each has a file, and an empty folder `at`. */
const behaviour = (
  sentence: string,
  body: (context: TemporaryStore & { readonly trees: string; readonly at: string }) => Promise<void>,
) =>
  test(sentence, () =>
    withStore('overlay', async (context) => {
      const write = (directory: string) => writeFileSync(join(directory, 'file'), 'text');
      await context.layer('one', '', write);
      await context.layer('two', 'one', write);
      const at = join(context.beside, 'at');
      mkdirSync(at);
      await body({ ...context, at, trees: join(context.root, 'snapshots') });
    }),
  );

/** Waits until the mounts of a namespace that has ended are gone. */
const removed = (context: TemporaryStore, name: string) =>
  eventually('the removal of a snapshot that was mounted', () =>
    context.store.remove(name).then(
      () => true,
      () => false,
    ),
  );

behaviour('a snapshot that another mount namespace has mounted is not removed, nor is one below', async (context) => {
  const { store, trees, at } = context;
  const other = await inNamespace(`mount -t overlay -o lowerdir=${trees}/2/fs:${trees}/1/fs overlay ${at}`);
  await assert.rejects(store.remove('two'), {
    kind: 'FailedPrecondition',
    message: `snapshot two can't be removed: it is mounted at ${at}, as process ${other.pid} sees it; unmount it first`,
  });
  assert.equal(await store.has('two'), true);
  await other[Symbol.asyncDispose]();
  await removed(context, 'two');
  await store.remove('one');
});

behaviour(
  'a directory that is mounted after its row was deleted stays until nobody has it mounted',
  async (context) => {
    const { store, trees, at, root, reopen } = context;
    const other = await inNamespace(`mount --bind ${trees}/2/fs ${at}`);
    // as if the process had mounted it between the look at the mounts and the rename
    changeDatabase(root, "DELETE FROM snapshots WHERE key = 'two'");
    for (const each of [store, await reopen()]) {
      assert.equal(await each.cleanup(), 0);
      const [first = '', gone = '', ...more] = await directoriesIn(root);
      assert.deepEqual([first, more], ['1', []]);
      assert.match(gone, /^rm-2-[0-9a-f]{8}$/);
      assert.equal(readFileSync(join(trees, gone, 'fs/file'), 'utf8'), 'text');
    }
    await other[Symbol.asyncDispose]();
    await eventually('the cleanup of a directory that was mounted', async () => (await store.cleanup()) === 1);
    assert.deepEqual(await directoriesIn(root), ['1']);
  },
);

behaviour('a snapshot that is mounted after the look of its removal keeps its files', async (context) => {
  const { store, trees, at, root } = context;
  const blocking = await new Leases(root).removing();
  const removing = store.remove('two');
  // it has looked at the mounts, and waits for the lock on ROOT, which it has opened
  await eventually('the removal waits', () => openFiles().filter((path) => path === root).length === 2);
  const other = await inNamespace(`mount --bind ${trees}/2/fs ${at}`);
  blocking[Symbol.dispose]();
  await removing;
  assert.equal(await store.cleanup(), 0);
  const [, gone = ''] = await directoriesIn(root);
  assert.equal(readFileSync(join(trees, gone, 'fs/file'), 'utf8'), 'text');
  await other[Symbol.asyncDispose]();
  await eventually('the cleanup of a directory that was mounted', async () => (await store.cleanup()) === 1);
});

behaviour('a mounted extraction snapshot can be removed, and its files stay until it is unmounted', async (context) => {
  const { store, at, root, trees } = context;
  const [mount] = await store.prepare('extract-1 key', '');
  const other = await inNamespace(`mount --bind ${mount?.source} ${at}; touch ${at}/file`);
  await store.remove('extract-1 key');
  await store.cleanup();
  const gone = (await directoriesIn(root)).find((name) => name.startsWith('rm-3-')) ?? 'none';
  assert.ok(existsSync(join(trees, gone, 'fs/file')));
  await other[Symbol.asyncDispose]();
  await eventually('the cleanup of a directory that was mounted', async () => (await store.cleanup()) === 1);
});

behaviour('a kill between the deletion of the row and the rename leaves what a cleanup removes', async (context) => {
  const { store, root } = context;
  changeDatabase(root, "DELETE FROM snapshots WHERE key = 'two'");
  assert.equal(await store.cleanup(), 1);
  assert.deepEqual(await directoriesIn(root), ['1']);
});

test('a process that keeps the store open deletes what others have left, and not what is mounted', async (context) => {
  context.mock.timers.enable({ apis: ['setInterval'] });
  await withStore('overlay', async ({ root, beside }) => {
    const [left, mounted] = ['rm-7-0123abcd', 'rm-8-0123abcd'];
    for (const name of [left, mounted]) mkdirSync(join(root, 'snapshots', name, 'fs'), { recursive: true });
    await using other = await inNamespace(`mount --bind ${root}/snapshots/${mounted}/fs ${beside}`);
    context.mock.timers.tick(SWEEP);
    await eventually('the first', async () => (await directoriesIn(root)).length === 1);
    assert.deepEqual(await directoriesIn(root), [mounted]);
    await other[Symbol.asyncDispose]();
    await eventually('the second', async () => {
      context.mock.timers.tick(SWEEP);
      return (await directoriesIn(root)).length === 0;
    });
  });
});

/** The files that this process has open. */
function openFiles(): string[] {
  return readdirSync('/proc/self/fd').flatMap((name) => {
    try {
      return [readlinkSync(`/proc/self/fd/${name}`)];
    } catch {
      return []; // the descriptor that lists them
    }
  });
}

/** Seed of the processes. Repeat a run: `RACE_SEED=N npm test test/snapshots/removal.test.ts`. */
const SEED = Number(process.env.RACE_SEED ?? Math.floor(Math.random() * 2 ** 31));
const RACE = join(import.meta.dirname, 'removal-race.ts');

test(`processes that unpack, mount, remove and are killed lose nothing that is leased or mounted (RACE_SEED=${SEED})`, () =>
  withStore('overlay', async ({ store, root, beside }) => {
    const random = new Random(SEED);
    const start = async (rounds: number) => {
      const parameters = [RACE, root, beside, String(random.below(2 ** 31)), String(rounds)];
      const child = startChild('unshare', ['--mount', '--propagation', 'private', process.execPath, ...parameters], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      assert.ok(child.stdout !== null);
      const ended = once(child, 'exit');
      await Promise.race([once(child.stdout, 'data'), ended]);
      return { child, ended };
    };
    for (let round = 0; round < 4; round += 1) {
      const lasting = await Promise.all([start(40), start(40)]);
      const killed = await start(100_000);
      await sleep(random.below(400));
      killed.child.kill('SIGKILL');
      await killed.ended;
      for (const { child, ended } of lasting) {
        await ended;
        assert.equal(child.exitCode, 0, 'see the error of the process above');
      }
    }
    for (const { name, kind } of await store.walk()) if (kind !== 'committed') await store.remove(name);
    await eventually('the end of all deletions', async () => {
      await store.cleanup();
      return !(await directoriesIn(root)).some((name) => !/^\d+$/.test(name));
    });
    const rows = new DatabaseSync(join(root, 'metadata.db'), { readOnly: true });
    const owned = rows.prepare('SELECT id FROM snapshots').all();
    rows.close();
    assert.deepEqual(await directoriesIn(root), owned.map(({ id }) => String(id)).sort());
    new Leases(root).tidy();
    assert.deepEqual(readdirSync(join(root, 'leases')), []);
  }));
