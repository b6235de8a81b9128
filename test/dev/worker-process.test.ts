import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { endChild, startChild } from '../support/child.ts';
import { eventually } from '../support/eventually.ts';
import { scratch } from '../support/scratch.ts';

const WORKER_PROCESS = pathToFileURL(join(import.meta.dirname, '../../dev/worker-process.ts')).href;

test('a worker of the demo ends with the demo, also after SIGKILL', async () => {
  using place = scratch();
  const [worker, demo] = [join(place.path, 'worker.mjs'), join(place.path, 'demo.mjs')];
  writeFileSync(worker, 'setInterval(() => {}, 1000);');
  writeFileSync(
    demo,
    `import { startWorker } from ${JSON.stringify(WORKER_PROCESS)};
console.log(startWorker(${JSON.stringify(worker)}, {}).pid);
setInterval(() => {}, 1000);`,
  );
  const child = startChild(process.execPath, [demo], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [line] = await once(child.stdout ?? child, 'data');
  const pid = Number(String(line));
  using _worker = { [Symbol.dispose]: () => void (isAlive(pid) && process.kill(pid, 'SIGKILL')) };
  assert.ok(isAlive(pid));
  await endChild(child);
  await eventually('the worker has ended', () => !isAlive(pid));
});

/** Whether a process is there, and is not only waiting for its parent to take its status. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
