import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'node:test';
import '../support/needs-root.ts';
import { startChild } from '../support/child.ts';
import { skipWithout } from '../support/present.ts';
import { chainOf, someImage, stage, until } from './stage.ts';

const skip = skipWithout('strace') || (spawnSync('strace', ['-c', 'true']).status !== 0 && 'strace may not trace here');

test('a disk that hangs for longer than the lock on a job lasts loses no job', { skip }, async () => {
  await using s = await stage();
  const env = { UNPACK_LOCK: '3s' };
  const image = someImage('slow', 1);
  await s.push('slow', { app: image });
  const first = await s.worker({ ...env, UNPACK_WORKER_NAME: 'on the slow disk' });
  // a commit of SQLite waits for this file
  const slow = ['-f', '-o', '/dev/null', '-P', join(s.root, 'metadata.db-wal')];
  slow.push('-e', 'trace=fsync,fdatasync', '-e', 'inject=fsync,fdatasync:delay_enter=9000000');
  await using strace = startChild('strace', [...slow, '-p', `${first.child.pid}`], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  assert.ok(strace.stderr);
  await once(strace.stderr, 'data'); // "attached"
  const { id } = await s.queue.add(s.payload('slow'));
  await until(async () => (await s.queue.status(id)).state === 'active', 60_000);
  const second = await s.worker({ ...env, UNPACK_WORKER_NAME: 'beside it' });
  const result = await s.queue.wait(id);
  assert.deepEqual(
    { worker: result.worker.name, attempts: result.attempts },
    { worker: 'on the slow disk', attempts: 1 },
    `${first.log()}\n${second.log()}`,
  );
  strace.kill('SIGTERM');
  await once(strace, 'exit');
  await s.assertClean(chainOf(image));
});
