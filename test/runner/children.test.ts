import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startChild } from '../support/child.ts';
import { scratch } from '../support/scratch.ts';

const FAMILY = join(import.meta.dirname, 'family.ts');
const RUN = join(import.meta.dirname, '../run.ts');
const isRoot = process.getuid?.() === 0;
/** Milliseconds. It only ends a test that hangs. */
const PATIENCE = 60_000;

interface Family {
  readonly pids: readonly number[];
  readonly path: string;
}

/** Whether a process is running. A zombie is not. */
function lives(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

async function eventually(what: string, condition: () => boolean): Promise<void> {
  for (const end = performance.now() + PATIENCE; !condition(); await sleep(10)) {
    assert.ok(performance.now() < end, `not within ${PATIENCE / 1000} s: ${what}`);
  }
}

async function familyIsGone({ pids, path }: Family): Promise<void> {
  for (const pid of pids) await eventually(`process ${pid} is gone`, () => !lives(pid));
  await eventually('its directory is gone', () => !existsSync(path));
  assert.ok(!readFileSync('/proc/self/mountinfo', 'utf8').includes(path), 'its mount is gone');
}

describe('processes, mounts and directories of a test', () => {
  it('are gone after the process of the test was killed: children, grandchildren, servers, mounts, directories', async () => {
    await using test = startChild(process.execPath, [FAMILY, isRoot ? 'mounts' : ''], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    assert.ok(test.stdout !== null);
    const [line] = await once(test.stdout, 'data');
    const family: Family = JSON.parse(String(line));
    assert.ok(family.pids.every(lives), 'they live');
    test.kill('SIGKILL');
    await once(test, 'exit');
    await familyIsGone(family);
  });

  it('are gone after the process of the test was killed while it waited for a program', async () => {
    await using test = startChild(process.execPath, [FAMILY, 'sync'], { stdio: ['ignore', 'pipe', 'inherit'] });
    const pid = test.pid ?? -1;
    const children = (): number[] =>
      readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
    const isSleeping = (child: number): boolean => readFileSync(`/proc/${child}/comm`, 'utf8') === 'sleep\n';
    await eventually('it waits for its program', () => children().some(isSleeping));
    const program = children().find(isSleeping) ?? -1;
    test.kill('SIGKILL');
    await once(test, 'exit');
    await eventually('the program is gone', () => !lives(program));
  });
});

describe('npm test', () => {
  it('kills a file that hangs, with all processes that it has started, and reports its name', async () => {
    using place = scratch();
    const file = join(place.path, 'hanging.test.ts');
    const told = join(place.path, 'told');
    // a child keeps the output of the file open
    writeFileSync(
      file,
      `import { writeFileSync } from 'node:fs';
       import { test } from 'node:test';
       import { startChild } from ${JSON.stringify(join(import.meta.dirname, '../support/child.ts'))};
       test('hangs', async () => {
         const { pid } = startChild('sleep', ['10000'], { stdio: 'inherit' });
         writeFileSync(${JSON.stringify(told)}, String(pid));
         await new Promise(() => setInterval(() => {}, 1000));
       });`,
    );
    for (const limit of ['--file-limit', '--limit']) {
      await using run = startChild(process.execPath, [RUN, file, `${limit}=0.1`], {
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      let output = '';
      for (const stream of [run.stdout, run.stderr]) {
        stream?.on('data', (text: Buffer) => {
          output += text;
        });
      }
      const [code] = await once(run, 'close');
      assert.equal(code, 1, output);
      assert.match(output, limit === '--limit' ? /is its limit.*hanging\.test\.ts/ : /hanging\.test\.ts: takes longer/);
      // on a slow machine the limit may end the file before it has a child
      const pid = existsSync(told) ? Number(readFileSync(told, 'utf8')) : 0;
      if (pid > 0) await eventually('its child is gone', () => !lives(pid));
    }
  });

  it('refuses a limit that is not a number, and a path that does not exist', async () => {
    for (const args of [['--limit=soon'], ['test/nothing-there']]) {
      await using run = startChild(process.execPath, [RUN, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
      const [code] = await once(run, 'exit');
      assert.equal(code, 2);
    }
  });
});
