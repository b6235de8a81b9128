import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { startChild } from '../support/child.ts';
import { skipWithout } from '../support/present.ts';
import { scratch } from '../support/scratch.ts';

const skip = skipWithout('strace') || (spawnSync('strace', ['-c', 'true']).status !== 0 && 'strace may not trace here');

/** Milliseconds for each sync: much longer than a busy machine delays a process. */
const SYNC = 2000;

/** The report of slow-disk.ts on the slow disk. */
async function workOn(where: 'thread' | 'here'): Promise<{ longest: number; looks: number }> {
  using place = scratch();
  const root = join(place.path, 'root');
  const store = await openSnapshotter({ root, type: 'overlay', durable: false });
  try {
    await store.prepare('first', '');
    await store.commit('base', 'first', { synced: true });
    const inject = ['-f', '-qq', '-o', '/dev/null', '-e', 'trace=fsync,fdatasync'];
    inject.push('-e', `inject=fsync,fdatasync:delay_enter=${SYNC * 1000}`);
    const program = join(import.meta.dirname, 'slow-disk.ts');
    await using child = startChild('strace', [...inject, process.execPath, program, root, where], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    assert.ok(child.stdout);
    return JSON.parse(await text(child.stdout));
  } finally {
    await store.close(); // it was open so long because the last to close a database syncs it once more
  }
}

describe('on a disk with syncs that take seconds', { skip, concurrency: true }, () => {
  test('a store on a separate thread blocks neither the caller nor lookups', async () => {
    const { longest, looks } = await workOn('thread');
    assert.ok(longest < SYNC / 2, `the event loop stood still for ${longest} ms`);
    assert.ok(looks > 0, 'nobody could look while the commit waited');
  });

  test('a store on the same thread blocks it, which shows that the disk is slow', async () => {
    const { longest } = await workOn('here');
    assert.ok(longest >= SYNC, `${longest} ms`);
  });
});
