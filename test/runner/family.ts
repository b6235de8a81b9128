import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { startRedis } from '../../dev/redis-server.ts';
import { runChild, startChild } from '../support/child.ts';
import { scratch } from '../support/scratch.ts';

/**
 * A program that starts what a test may start, for children.test.ts: a process with a child, a Redis, and as
 * `family.ts mounts` a mount in a directory. It prints their process IDs as a line of JSON and hangs. As `family.ts sync` it
 * waits for a program that hangs.
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
