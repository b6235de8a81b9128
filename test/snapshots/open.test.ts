import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { toUnpackError } from '../../src/errors.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { Snapshotter } from '../../src/snapshots/snapshotter.ts';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';

test('a store that disappears while it is open gives an error that names it', () =>
  inDirectory(async (parent) => {
    const root = join(parent, 'store');
    const store = await openSnapshotter({ root, type: 'overlay', durable: false });
    try {
      await rename(root, join(parent, 'elsewhere'));
      await assert.rejects(store.prepare('key', ''), {
        code: 'STORE_FAILED',
        message: /snapshots is not there any more; .*restart unpackd/,
      });
    } finally {
      await store.close();
    }
  }));

describe('openSnapshotter refuses with a clear message', () => {
  test('a store of the other type', () =>
    inDirectory(async (root) => {
      await (await openSnapshotter({ root, type: 'overlay', durable: false })).close();
      await refuses(root, 'native', /made as overlay and can't be used as native/);
    }));

  test('a store of a newer version', () =>
    inDirectory(async (root) => {
      await (await openSnapshotter({ root, type: 'overlay', durable: false })).close();
      change(root, 'PRAGMA user_version = 99');
      await refuses(root, 'overlay', /has version 99 of the schema/);
    }));

  test("another program's database, and leaves it as it was", () =>
    inDirectory(async (root) => {
      change(root, 'CREATE TABLE theirs (x)');
      await refuses(root, 'overlay', /is another program's database/);
      assert.equal(change(root, 'DROP TABLE theirs'), 'delete');
    }));

  test('a metadata.db that is not SQLite, such as containerd’s', () =>
    inDirectory(async (root) => {
      await writeFile(join(root, 'metadata.db'), Buffer.alloc(8192, 7));
      await refuses(root, 'overlay', /another program's file/);
    }));

  test('a root that is a file', () =>
    inDirectory(async (root) => {
      await writeFile(join(root, 'file'), '');
      await refuses(join(root, 'file'), 'overlay', /can't be used as the snapshot store: ENOTDIR/);
    }));

  test('a root path with a separator of mount options', () =>
    inDirectory(async (root) => {
      for (const name of ['a:b', 'a,b', 'a\\b', 'a"b']) {
        await refuses(join(root, name), 'overlay', /no mount option can hold/);
      }
      assert.deepEqual(await readdir(root), []);
    }));

  test('a file system that is read-only', () =>
    inDirectory(async (root) => {
      await mkdir(join(root, 'below'));
      await mkdir(join(root, 'mounted'));
      await mountSnapshot(
        [{ type: 'bind', source: join(root, 'below'), options: ['rbind', 'ro'] }],
        join(root, 'mounted'),
      );
      try {
        await refuses(join(root, 'mounted/store'), 'overlay', /EROFS/);
      } finally {
        await unmountSnapshot(join(root, 'mounted'));
      }
    }));
});

test('several processes can create one store at once', () =>
  inDirectory(async (root) => {
    const stores = await Promise.all(
      Array.from({ length: 8 }, () => openSnapshotter({ root, type: 'overlay', durable: false })),
    );
    await Promise.all(stores.map((store, index) => store.prepare(`key-${index}`, '')));
    assert.equal((await stores[0]?.walk())?.length, 8);
    await Promise.all(stores.map((store) => store.close()));
    assert.deepEqual((await readdir(root)).sort(), ['metadata.db', 'reserve', 'snapshots']);
  }));

async function refuses(root: string, type: Snapshotter['type'], sentence: RegExp): Promise<void> {
  await assert.rejects(openSnapshotter({ root, type, durable: false }), (error) => {
    const { code, message } = toUnpackError(error);
    assert.match(message, sentence);
    return code === 'STORE_FAILED';
  });
}

/** Changes the database of a closed store; returns its journal mode. */
function change(root: string, sql: string): unknown {
  const file = new DatabaseSync(join(root, 'metadata.db'));
  file.exec(sql);
  const mode = file.prepare('PRAGMA journal_mode').get()?.journal_mode;
  file.close();
  return mode;
}

async function inDirectory(body: (root: string) => Promise<void>): Promise<void> {
  const root = await mkdtemp(join(tmpdir(), 'unpackd-open-'));
  try {
    await body(root);
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}
