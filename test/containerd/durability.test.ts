import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { connectContainerd } from '../../src/grpc/client.ts';
import type { WireSnapshot } from '../../src/grpc/services.ts';
import { Durability } from '../../src/snapshots/containerd/durability.ts';
import { scratch } from '../support/scratch.ts';

/** Layers of a chain, bottom-most first: made before the machine started, or now, with the label or without it. */
const CHAIN = [
  { made: 'before', synced: false },
  { made: 'before', synced: true },
  { made: 'now', synced: false },
] as const;

const NOW = Math.floor(Date.now() / 1000);

/** containerd's answers for that chain, and how many there were. */
function answers() {
  const layers = new Map<string, WireSnapshot>();
  for (const [index, { made, synced }] of CHAIN.entries()) {
    const time = { seconds: made === 'now' ? NOW : 1000, nanos: 0 };
    layers.set(`${index}`, {
      name: `${index}`,
      parent: index === 0 ? '' : `${index - 1}`,
      kind: 'COMMITTED',
      createdAt: time,
      updatedAt: time,
      labels: synced ? { 'unpackd.dev/synced': 'true' } : {},
    });
  }
  const counted = { calls: 0 };
  const stat = async (name: string) => {
    counted.calls++;
    const layer = layers.get(name);
    assert.ok(layer !== undefined);
    return layer;
  };
  return { counted, stat };
}

test('layers of others from before the start of the machine stay unknown, later ones are synced once', async () => {
  using place = scratch();
  const client = connectContainerd({ socket: join(place.path, 'nobody.sock'), namespace: 'default' });
  const { counted, stat } = answers();
  const durability = new Durability(client, 'overlayfs', place.path);
  assert.deepEqual(await durability.unsynced({ name: '2' }, stat, false), { own: 0, others: 2 });
  assert.equal(counted.calls, 3);
  assert.deepEqual(await durability.unsynced({ name: '2' }, stat, true), { own: 0, others: 1 });
  assert.deepEqual(await durability.unsynced({ name: '2' }, stat, false), { own: 0, others: 1 });
  assert.equal(counted.calls, 5, 'each further look asks for the top only');
  assert.deepEqual(await durability.unsynced({ name: '1' }, stat, true), { own: 0, others: 1 });
  await durability.close();
  client.close();
});

test('the layers below that are known are read at once, and wrong names do no harm', async () => {
  using place = scratch();
  const client = connectContainerd({ socket: join(place.path, 'nobody.sock'), namespace: 'default' });
  const { counted, stat } = answers();
  const { promise: all, resolve: onAll } = Promise.withResolvers<void>();
  const atOnce = async (name: string) => {
    const answer = stat(name);
    if (counted.calls === CHAIN.length) onAll();
    if (name !== '2') await all;
    return answer;
  };
  const durability = new Durability(client, 'overlayfs', place.path);
  assert.deepEqual(await durability.unsynced({ name: '2', below: ['0', '1'] }, atOnce, false), { own: 0, others: 2 });
  assert.equal(counted.calls, CHAIN.length);
  const again = new Durability(client, 'overlayfs', place.path);
  const wrong = { name: '2', below: ['nothing', '0'] };
  assert.deepEqual(await again.unsynced(wrong, stat, false), { own: 0, others: 2 });
  await durability.close();
  await again.close();
  client.close();
});
