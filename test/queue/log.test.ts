import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { runChild, startChild } from '../support/child.ts';
import { tmpfs, unavailable } from '../support/file-system.ts';

const SCRIPT = `
import { createLog } from '${new URL('../../src/queue/log.ts', import.meta.url).href}';
const log = createLog({ UNPACK_LOG_LEVEL: 'info', UNPACK_LOG_FORMAT: process.argv[1] });
let n = 0;
setInterval(() => log.info({}, 'line ' + n++ + 'x'.repeat(200)), 5);
process.on('SIGTERM', () => process.exit(0));
`;

/** The numbers in the lines of a log. */
const lines = (path: string): number[] =>
  [...readFileSync(path, 'utf8').matchAll(/line (\d+)x/g)].map(([, n]) => Number(n));

describe('a log on a disk that is full', { skip: unavailable(() => tmpfs('size=1m')) }, () => {
  for (const format of ['json', 'pretty']) {
    it(`ends no process, and continues in order when there is space again: ${format}`, async () => {
      using disk = tmpfs('size=1m');
      const path = join(disk.path, 'log');
      const ballast = join(disk.path, 'ballast');
      assert.throws(() => writeFileSync(ballast, Buffer.alloc(2 << 20)), { code: 'ENOSPC' });
      const file = openSync(path, 'w');
      await using child = startChild(process.execPath, ['--input-type=module', '-e', SCRIPT, format], {
        stdio: ['ignore', file, 'inherit'],
      });
      closeSync(file);
      const ended = new Promise((resolve) => child.once('exit', resolve));
      try {
        await sleep(700);
        assert.equal(child.exitCode, null);
        assert.deepEqual(lines(path), []);
        await rm(ballast);
        while (lines(path).length < 200) await sleep(20);
        const seen = lines(path);
        assert.deepEqual(
          seen,
          seen.map((_, index) => index),
        );
      } finally {
        child.kill('SIGTERM');
        assert.equal(await ended, 0);
      }
    });
  }
});

describe('a log’s lines', () => {
  const endings = {
    'process.exit': 'process.exit(3)',
    'an exception that nobody catches': 'throw new Error("gone")',
    'nothing left to do': '',
  };
  for (const [how, code] of Object.entries(endings)) {
    it(`are written before the end of the process, by ${how}`, () => {
      const script = `${SCRIPT.split('setInterval')[0]}
        for (; n < 3; n++) log.info({}, 'line ' + n + 'x');
        setTimeout(() => { for (; n < 6; n++) log.info({}, 'line ' + n + 'x'); ${code} }, 20);`;
      const { stdout } = runChild(process.execPath, ['--input-type=module', '-e', script, 'json']);
      assert.deepEqual(
        [...stdout.matchAll(/line (\d)x/g)].map(([, number]) => Number(number)),
        [0, 1, 2, 3, 4, 5],
      );
    });
  }

  it('are all written if one turn of the event loop has more of them than the buffer for a full disk', () => {
    const script = `${SCRIPT.split('setInterval')[0]}
      for (; n < 3000; n++) log.info({}, 'line ' + n + 'x'.repeat(1000));`;
    const { stdout } = runChild(process.execPath, ['--input-type=module', '-e', script, 'json']);
    assert.deepEqual(
      [...stdout.matchAll(/line (\d+)x/g)].map(([, number]) => Number(number)),
      Array.from({ length: 3000 }, (_, index) => index),
    );
  });

  it('are gathered where many come one after the other: a write every ten milliseconds', () => {
    const script = `import fs from 'node:fs';
      import { setImmediate as nextTurn } from 'node:timers/promises';
      const { writeSync } = fs;
      let writes = 0;
      fs.writeSync = (...parameters) => { if (parameters[0] === 1) writes++; return writeSync(...parameters); };
      ${SCRIPT.split('setInterval')[0]}
      const began = performance.now();
      for (; n < 200; n++) { log.info({}, 'line ' + n + 'x'); await nextTurn(); }
      process.on('exit', () => process.stderr.write(JSON.stringify({ writes, took: performance.now() - began })));`;
    const { stdout, stderr } = runChild(process.execPath, ['--input-type=module', '-e', script, 'json']);
    const { writes, took } = JSON.parse(stderr);
    assert.equal([...stdout.matchAll(/line \d+x/g)].length, 200);
    assert.ok(writes >= 1 && writes <= took / 10 + 2, `${writes} writes in ${took} ms`);
  });
});
