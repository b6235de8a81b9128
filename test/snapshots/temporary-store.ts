import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import {
  isSnapshotError,
  type Mount,
  SnapshotError,
  type SnapshotErrorKind,
  type Snapshotter,
} from '../../src/snapshots/snapshotter.ts';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';

/** A store for one test, with real mounts of its snapshots. */
export interface TemporaryStore<Opened extends Snapshotter = Snapshotter> {
  readonly store: Opened;
  /** ROOT of the store. */
  readonly root: string;
  /** A directory beside it. */
  readonly beside: string;
  /** Opens the same store once more; it is closed with the test. */
  reopen(options?: ReopenOptions): Promise<Opened>;
  /** Runs `body` on the mounted snapshot and unmounts it. */
  mounted<T>(mounts: readonly Mount[], body: (directory: string) => Promise<T> | T): Promise<T>;
  /** Prepares a snapshot, lets `write` fill it through its mounts, and commits it as one whose files are synced. */
  layer(name: string, parent: string, write?: (directory: string) => Promise<void> | void): Promise<void>;
}

interface ReopenOptions {
  readonly lockTimeout?: number;
  readonly durable?: boolean;
}

/** Runs a test in one of our own stores. */
export function withStore(
  type: Snapshotter['type'],
  body: (context: TemporaryStore) => Promise<void>,
  open = openSnapshotter,
): Promise<void> {
  return withOpened(({ root, beside: _, ...options }) => open({ root, type, durable: false, ...options }), body);
}

/** Runs a test in a store that `open` opens. */
export async function withOpened<Opened extends Snapshotter>(
  open: (options: { readonly root: string; readonly beside: string } & ReopenOptions) => Promise<Opened>,
  body: (context: TemporaryStore<Opened>) => Promise<void>,
): Promise<void> {
  const beside = await mkdtemp(join(tmpdir(), 'unpackd-store-'));
  const root = join(beside, 'root');
  const opened: Snapshotter[] = [];
  const targets: string[] = [];
  const reopen = async (options: ReopenOptions = {}) => {
    const store = await open({ root, beside, ...options });
    opened.push(store);
    return store;
  };
  const mounted = async <T>(mounts: readonly Mount[], use: (directory: string) => Promise<T> | T): Promise<T> => {
    const target = join(beside, `mount-${targets.length}`);
    await mkdir(target);
    targets.push(target);
    await mountSnapshot(mounts, target);
    try {
      return await use(target);
    } finally {
      await unmountSnapshot(target);
    }
  };
  try {
    const store = await reopen();
    const layer: TemporaryStore['layer'] = async (name, parent, write = () => {}) => {
      const mounts = await store.prepare(`prepare-${name}`, parent);
      await mounted(mounts, write);
      await store.commit(name, `prepare-${name}`, { synced: true });
    };
    await body({ store, root, beside, reopen, mounted, layer });
  } finally {
    for (const target of targets) await unmountSnapshot(target);
    for (const store of opened) await store.close();
    await rm(beside, { recursive: true, force: true });
  }
}

/** Asserts that a call fails with a SnapshotError of this kind. */
export async function refused(call: Promise<unknown>, kind: SnapshotErrorKind): Promise<void> {
  await assert.rejects(call, (error) => {
    assert.ok(isSnapshotError(error, kind), `expected ${kind}, got ${String(error)}`);
    return true;
  });
}

/** The result of a call; `undefined` if the store refuses it. @throws any other error */
export async function unlessRefused<T>(call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    if (error instanceof SnapshotError) return undefined;
    throw error;
  }
}

/** The directory that the files of an active snapshot are written into. */
export function writableTree([mount]: readonly Mount[]): string {
  const option = mount?.options.find((each) => each.startsWith('upperdir='));
  return option?.slice('upperdir='.length) ?? mount?.source ?? '';
}

/** The names of the directories in ROOT/snapshots. */
export async function directoriesIn(root: string): Promise<string[]> {
  return (await readdir(join(root, 'snapshots'))).filter((name) => name !== 'store.json').sort();
}

/** The identity of the store, as in its file. */
export function identityOf(root: string): string {
  const { identity }: { identity: string } = JSON.parse(readFileSync(join(root, 'snapshots/store.json'), 'utf8'));
  return identity;
}

/** Changes the database behind the store's back. */
export function changeDatabase(root: string, sql: string): void {
  const file = new DatabaseSync(join(root, 'metadata.db'));
  file.exec(sql);
  file.close();
}
