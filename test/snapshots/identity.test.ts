import assert from 'node:assert/strict';
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { toUnpackError } from '../../src/errors.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { openStoreThread } from '../../src/snapshots/store-thread.ts';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';
import { eventually } from '../support/eventually.ts';
import { scratch } from '../support/scratch.ts';
import { listTree } from './list-tree.ts';

/**
 * Somebody swaps, loses, restores or mounts parts of the store. Each is refused with one sentence, and changes nothing in the
 * directories of snapshots.
 */
interface Fault {
  readonly what: string;
  /** What happens to the store at `root`. `other` is a second store, `copy` an earlier copy of the first one. */
  readonly happens: (place: { root: string; other: string; copy: string }) => unknown;
  /** The message of a process that opens the store afterwards. Absent: it opens, as the store that is there now. */
  readonly opens?: RegExp;
  /** The message of a process that had the store open before. */
  readonly running: RegExp;
}

const RECOVER = /unpackd snapshots recover/;
const REPLACED = /is not the one that this process opened: .*restart unpackd/;
const GONE = /is not there any more; is its disk not mounted\?/;

const FAULTS: readonly Fault[] = [
  {
    what: 'another store is mounted over the root',
    happens: ({ root, other }) => bind(other, root),
    running: REPLACED,
  },
  {
    what: 'an empty disk is mounted over the root',
    happens: async ({ root, copy }) => {
      mkdirSync(`${copy}-empty`);
      await bind(`${copy}-empty`, root);
    },
    running: GONE,
  },
  {
    what: 'the snapshots of another store are mounted over ROOT/snapshots',
    happens: ({ root, other }) => bind(join(other, 'snapshots'), join(root, 'snapshots')),
    opens: /do not belong together \(they are of different stores\)/,
    running: REPLACED,
  },
  {
    what: 'an empty disk is mounted over ROOT/snapshots',
    happens: async ({ root, copy }) => {
      mkdirSync(`${copy}-empty`);
      await bind(`${copy}-empty`, join(root, 'snapshots'));
    },
    opens: /do not belong together \(store.json is missing there\)/,
    running: REPLACED,
  },
  {
    what: 'ROOT/snapshots is replaced by that of another store',
    happens: ({ root, other }) => {
      renameSync(join(root, 'snapshots'), join(root, 'away'));
      renameSync(join(other, 'snapshots'), join(root, 'snapshots'));
    },
    opens: /do not belong together/,
    running: REPLACED,
  },
  {
    what: 'ROOT/snapshots is lost',
    happens: ({ root }) => renameSync(join(root, 'snapshots'), join(root, 'away')),
    opens: GONE,
    running: GONE,
  },
  {
    what: 'the database is lost',
    happens: ({ root }) => removeDatabase(root),
    opens: /metadata.db is missing or empty/,
    running: GONE,
  },
  {
    what: 'the database is empty',
    happens: ({ root }) => {
      removeDatabase(root);
      writeFileSync(join(root, 'metadata.db'), '');
    },
    opens: /metadata.db is missing or empty/,
    running: REPLACED,
  },
  {
    what: 'the database is a new one without tables',
    happens: ({ root }) => {
      removeDatabase(root);
      const file = new DatabaseSync(join(root, 'metadata.db'));
      file.exec('PRAGMA journal_mode = WAL');
      file.close();
    },
    opens: /metadata.db is missing or empty/,
    running: REPLACED,
  },
  {
    what: 'the database is that of another store',
    happens: ({ root, other }) => {
      removeDatabase(root);
      cpSync(join(other, 'metadata.db'), join(root, 'metadata.db'));
    },
    opens: /do not belong together \(they are of different stores\)/,
    running: REPLACED,
  },
  {
    what: 'an older copy of the database is put back',
    happens: ({ root, copy }) => {
      removeDatabase(root);
      cpSync(join(copy, 'metadata.db'), join(root, 'metadata.db'));
    },
    opens: /is an older copy/,
    running: REPLACED,
  },
  {
    what: 'the identity file is that of another store',
    happens: ({ root, other }) => {
      rmSync(join(root, 'snapshots/store.json'));
      cpSync(join(other, 'snapshots/store.json'), join(root, 'snapshots/store.json'));
    },
    opens: /do not belong together/,
    running: /do not belong together/,
  },
];

const OPEN = { 'a process': openSnapshotter, 'a worker': openStoreThread } as const;

describe('a store that is not the one that it was', () => {
  for (const { what, happens, opens, running } of FAULTS) {
    test(`${what}: no process opens it, and nothing is touched`, () =>
      withStores(async (place) => {
        await happens(place);
        const before = [contents(place.root), contents(place.other)];
        for (let time = 1; time <= 2; time++) {
          const opening = openSnapshotter({ root: place.root, type: 'overlay', durable: false });
          if (opens === undefined) await (await opening).close();
          else await refused(opening, opens);
        }
        if (opens !== undefined) assert.deepEqual([contents(place.root), contents(place.other)], before);
      }));

    for (const [who, open] of Object.entries(OPEN)) {
      test(`${what}, while ${who} has it open: each call is refused, and nothing is touched`, () =>
        withStores(async (place) => {
          const store = await open({ root: place.root, type: 'overlay', durable: false });
          try {
            await store.prepare('active', 'upper');
            await store.prepare('lower', '');
            await happens(place);
            const before = [contents(place.root), contents(place.other)];
            for (const call of callsOf(store)) await refused(call(), running);
            assert.deepEqual([contents(place.root), contents(place.other)], before);
          } finally {
            await store.close();
          }
        }));
    }
  }

  test('the sentences say what to do', () =>
    withStores(async ({ root }) => {
      removeDatabase(root);
      await refused(openSnapshotter({ root, type: 'overlay', durable: false }), RECOVER);
      assert.equal(existsSync(join(root, 'metadata.db')), false, 'and no new database is made');
    }));
});

function callsOf(store: Snapshotter): (() => Promise<unknown>)[] {
  return [
    () => store.has('upper'),
    () => store.keys('a'),
    () => store.stat('upper'),
    () => store.prepare('another', ''),
    () => store.prepare('another', 'upper'),
    () => store.commit('third', 'active'),
    () => store.remove('active'),
    () => store.remove('upper'),
    () => store.cleanup(),
  ];
}

async function refused(call: Promise<unknown>, sentence: RegExp): Promise<void> {
  await assert.rejects(call, (error) => {
    const { code, message } = toUnpackError(error);
    assert.match(message, sentence);
    assert.equal(code, 'STORE_FAILED');
    return true;
  });
}

/** The directories of snapshots and all that is in them. */
function contents(root: string): unknown {
  const directory = join(root, 'snapshots');
  if (!existsSync(directory)) return undefined;
  return readdirSync(directory)
    .filter((name) => name !== 'store.json')
    .sort()
    .map((name) => [name, listTree(join(directory, name))]);
}

/** The store with two layers, another one with four, and a copy that was made after the first layer. */
async function withStores(
  body: (place: { root: string; other: string; copy: string }) => Promise<void>,
): Promise<void> {
  using place = scratch();
  const [root, other, copy] = [join(place.path, 'root'), join(place.path, 'other'), join(place.path, 'copy')];
  await fill(root, ['base']);
  cpSync(root, copy, { recursive: true, verbatimSymlinks: true });
  await fill(root, ['upper']);
  await fill(other, ['one', 'two', 'three', 'four']);
  try {
    await body({ root, other, copy });
  } finally {
    for (const path of [join(root, 'snapshots'), root]) await unmountSnapshot(path);
  }
}

async function fill(root: string, names: readonly string[]): Promise<void> {
  const store = await openSnapshotter({ root, type: 'overlay', durable: false });
  for (const name of names) {
    const [mount] = await store.prepare(`prepare-${name}`, '');
    writeFileSync(join(mount?.source ?? '', 'file'), name);
    await store.commit(name, `prepare-${name}`, { synced: true });
  }
  await store.close();
}

function removeDatabase(root: string): void {
  for (const end of ['', '-wal', '-shm']) rmSync(join(root, `metadata.db${end}`), { force: true });
}

function bind(source: string, target: string): Promise<unknown> {
  return mountSnapshot([{ type: 'bind', source, options: ['rbind'] }], target);
}

test('a store that is mounted in the middle of a cleanup loses nothing', () =>
  withStores(async ({ root, other }) => {
    mkdirSync(join(other, 'snapshots/1/work/file'), { recursive: true });
    const store = await openSnapshotter({ root, type: 'overlay', durable: false });
    const descriptor = openSync(join(root, 'snapshots'), 'r');
    const stray = `/proc/self/fd/${descriptor}/rm-1`;
    try {
      const before = contents(other);
      // again with more files, if the cleanup was over before the mount
      for (let [files, inTime] = [5000, false]; !inTime; files *= 2) {
        mkdirSync(stray);
        for (let index = 0; index < files; index++) writeFileSync(join(stray, `${index}`), '');
        const cleaning = store.cleanup();
        const left = () => (existsSync(stray) ? readdirSync(stray).length : 0);
        await eventually('files are being removed', () => left() < files);
        await bind(other, root);
        inTime = left() > 0;
        await cleaning;
        assert.equal(left(), 0);
        assert.deepEqual(contents(other), before);
        await unmountSnapshot(root);
      }
    } finally {
      closeSync(descriptor);
      await store.close();
    }
  }));
