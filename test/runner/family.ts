import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { startRedis } from '../../dev/redis-server.ts';
import { runChild, startChild } from '../support/child.ts';
import { scratch } from '../support/scratch.ts';

/**
 * What a test might start: `family.ts MOUNTS` starts a process that has a child of its own, in its group, a Redis, and
 * where MOUNTS is `mounts` a mount in a directory of its own, says so in a line of JSON, and hangs. So do the program that
 * it runs to its end, if it is asked for one as `family.ts sync`, and the process itself.
 */
const [how = ''] = process.argv.slice(2);
if (how === 'sync') {
  process.stdout.write(`${JSON.stringify({ pids: [], path: '' })}\n`);
  runChild('sh', ['-c', 'echo $$ >&2; exec sleep 10000']);
}
const parent = startChild('sh', ['-c', 'sleep 10000 & echo $!; wait'], { stdio: ['ignore', 'pipe', 'inherit'] });
const grandchild = await new Promise((resolve) => parent.stdout?.once('data', (text) => resolve(Number(text))));
const redis = await startRedis();
const place = scratch();
if (how === 'mounts') {
  const path = join(place.path, 'mounted');
  mkdirSync(path);
  await new Promise((resolve) => spawn('mount', ['-t', 'tmpfs', 'tmpfs', path]).once('exit', resolve));
}
process.stdout.write(`${JSON.stringify({ pids: [parent.pid, grandchild, redis.pid], path: place.path })}\n`);
setInterval(() => {}, 1 << 30);
