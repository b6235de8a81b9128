import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { tmpfs, unavailable } from '../support/file-system.ts';

const SCRIPT = `
import { createLog } from '${new URL('../../src/queue/log.ts', import.meta.url).href}';
const log = createLog({ UNPACK_LOG_LEVEL: 'info', UNPACK_LOG_FORMAT: process.argv[1] });
let n = 0;
setInterval(() => log.info({}, 'line ' + n++ + 'x'.repeat(200)), 5);
process.on('SIGTERM', () => process.exit(0));
`;

/** Numbers of the lines in a log. */
const lines = (path: string): number[] =>
  [...readFileSync(path, 'utf8').matchAll(/line (\d+)x/g)].map(([, n]) => Number(n));

describe('a log on a disk that is full', { skip: unavailable(() => tmpfs('size=1m')) }, () => {
  for (const format of ['json', 'pretty']) {
    it(`ends nothing, and goes on in order when there is room again: ${format}`, async () => {
      using disk = tmpfs('size=1m');
      const path = join(disk.path, 'log');
      const ballast = join(disk.path, 'ballast');
      assert.throws(() => writeFileSync(ballast, Buffer.alloc(2 << 20)), { code: 'ENOSPC' });
      const file = openSync(path, 'w');
      const child = spawn(process.execPath, ['--input-type=module', '-e', SCRIPT, format], {
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
