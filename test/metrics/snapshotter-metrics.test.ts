import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import '../support/needs-root.ts';
import { connectContainerd } from '../../src/grpc/client.ts';
import { isGrpcError } from '../../src/grpc/errors.ts';
import { SnapshotterProcess } from '../proxy/served.ts';
import { eventually } from '../support/eventually.ts';
import { scratch } from '../support/scratch.ts';
import { metricValue } from './metric-values.ts';

test('unpackd snapshotter counts the calls of containerd, and shows its store, on the health port', async () => {
  using place = scratch();
  const socket = join(place.path, 's.sock');
  const args = ['--root', join(place.path, 'store'), '--address', socket, '--health-port', '0'];
  const served = await SnapshotterProcess.start('snapshotter', ...args);
  const client = connectContainerd({ socket, namespace: 'default' });
  try {
    const url = await eventually('its address is logged', () => /health at (http:[\w.:/]+)/.exec(served.log)?.[1]);
    const page = async () => (await fetch(`${url}/metrics`)).text();
    const calls = (text: string, code: string) => metricValue(text, 'unpackd_snapshotter_calls_total', { code });
    const snapshotter = 'unpackd';
    const before = await page();
    assert.deepEqual([calls(before, 'OK'), calls(before, 'UNAVAILABLE')], [0, 0], 'they are there before a call');
    await client.snapshots.Prepare({ snapshotter, key: 'one', parent: '' });
    for await (const _ of client.snapshots.List({ snapshotter }));
    const missing = (error: unknown) => isGrpcError(error, 'NOT_FOUND');
    await assert.rejects(client.snapshots.Stat({ snapshotter, key: 'missing' }), missing);
    const after = await page();
    assert.deepEqual([calls(after, 'OK'), calls(after, 'NOT_FOUND')], [2, 1]);
    const timed = (method: string) => metricValue(after, 'unpackd_snapshotter_call_duration_seconds_count', { method });
    assert.deepEqual(['Prepare', 'List', 'Stat', 'Remove'].map(timed), [1, 1, 1, 0]);
    assert.ok((metricValue(after, 'unpackd_store_free_bytes') ?? 0) > 0);
    assert.equal((await fetch(`${url}/readyz`)).status, 200);
  } finally {
    client.close();
    assert.equal(await served.stop(), 0);
  }
});
