import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { APPLICATION_ID, SCHEMA_VERSION, STEPS } from '../../src/snapshots/schema.ts';
import { scratch } from '../support/scratch.ts';
import { changeDatabase, identityOf } from './temporary-store.ts';

/** A store as the code of version 2 of the schema left it: two layers, an active snapshot, no identity and no records. */
function storeOfVersion2(root: string): void {
  for (const id of [1, 2, 4]) {
    mkdirSync(join(root, `snapshots/${id}/fs`), { recursive: true });
    writeFileSync(join(root, `snapshots/${id}/fs/file`), `${id}`);
  }
  const file = new DatabaseSync(join(root, 'metadata.db'));
  file.exec('PRAGMA journal_mode = WAL');
  file.exec(STEPS[0] ?? '');
  file.exec(`PRAGMA application_id = ${APPLICATION_ID}; PRAGMA user_version = 2;`);
  file.exec(`INSERT INTO store VALUES ('overlay', 'keep', 'trusted')`);
  const insert = file.prepare('INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, 5, 6, NULL, NULL)');
  insert.run(1, 'base', 'committed', null, '{"a":"1"}');
  insert.run(2, 'upper', 'committed', 1, '{}');
  insert.run(4, 'key', 'active', 2, '{}');
  file.close();
}

test('a store of an older version of the schema is upgraded, and all its snapshots can be used', async () => {
  using place = scratch();
  const root = join(place.path, 'root');
  storeOfVersion2(root);
  const stores = await Promise.all([1, 2, 3].map(() => openSnapshotter({ root, type: 'overlay', durable: false })));
  const [store] = stores;
  assert.ok(store);
  const names = (await store.walk()).map(({ name, parent, broken }) => [name, parent, broken]);
  assert.deepEqual(names, [
    ['base', '', undefined],
    ['key', 'upper', undefined],
    ['upper', 'base', undefined],
  ]);
  assert.deepEqual((await store.stat('base')).labels, { a: '1' });
  await store.prepare('more', 'upper');
  await store.commit('top', 'more');
  for (const each of stores) await each.close();

  assert.deepEqual(readdirSync(join(root, 'snapshots')).sort(), ['1', '2', '4', '5', 'store.json']);
  const record = JSON.parse(readFileSync(join(root, 'snapshots/2/committed.json'), 'utf8'));
  assert.deepEqual(record, { kind: 'committed', name: 'upper', parent: 'base', labels: {}, created: 5 });
  assert.match(identityOf(root), /^[0-9a-f]{32}$/);
  assert.equal(readFileSync(join(root, 'snapshots/1/fs/file'), 'utf8'), '1');
});

test('a store of a newer version is refused, and stays as it is', async () => {
  using place = scratch();
  const root = join(place.path, 'root');
  await (await openSnapshotter({ root, type: 'overlay', durable: false })).close();
  changeDatabase(root, `PRAGMA user_version = ${SCHEMA_VERSION + 1}`);
  await assert.rejects(openSnapshotter({ root, type: 'overlay', durable: false }), {
    code: 'STORE_FAILED',
    message: /has version \d+ of the schema and this unpackd knows \d+: use the unpackd that made it/,
  });
});
