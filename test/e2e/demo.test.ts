import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { Redis } from 'ioredis';
import { whyNoContainers } from '../../dev/demo/containerd.ts';
import { startRedis } from '../../dev/redis-server.ts';
import { finished, startCli } from '../cli/run-cli.ts';
import { eventually } from '../support/eventually.ts';
import { scratch } from '../support/scratch.ts';

describe('the demo', () => {
  let temporary = '';
  beforeEach(() => {
    temporary = mkdtempSync(join(tmpdir(), 'unpackd-test-'));
  });
  afterEach(() => rmSync(temporary, { recursive: true, force: true }));
  const start = (...args: string[]) => startCli(['demo', ...args], { env: { TMPDIR: temporary } });

  function assertNothingLeft(): void {
    assert.deepEqual(readdirSync(temporary), []);
    assert.doesNotMatch(readFileSync('/proc/self/mounts', 'utf8'), new RegExp(temporary));
    const processes = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
    const environments = processes.map((pid) => environmentOf(pid));
    assert.equal(environments.filter((text) => text.includes(`TMPDIR=${temporary}`)).length, 0);
  }

  test('runs to its end and leaves nothing behind', async () => {
    const { status, stdout, stderr } = await finished(start());
    assert.equal(status, 0, stderr);
    assert.equal(stderr, '');
    assert.match(stdout, /chain ID sha256:[0-9a-f]{64}/);
    assert.match(stdout, /4 of 4 layers existed/);
    assert.match(stdout, /\[BLOB_DIGEST_MISMATCH\] layer 5 of 5/);
    assert.doesNotMatch(stdout, /FAIL/);
    const shown = demoOfReadme();
    const whole = whyNoContainers() === undefined;
    const [expected, printed] = [shown, stdout].map((text) =>
      withoutFigures(whole ? text : (text.split('\n7 ')[0] ?? '')),
    );
    assert.equal(printed, expected, 'README.md shows this output');
    if (whole) assert.match(stdout, /has demo\.example\/demo:app, with 2 documents and 0 blobs of layers$/m);
    assertNothingLeft();
  });

  for (const heading of ['2 ', '3 ', '7 ']) {
    test(`an interrupt at step ${heading}ends all processes`, async () => {
      const child = start();
      const end = finished(child);
      let stdout = '';
      child.stdout?.on('data', (text: Buffer) => {
        stdout += text.toString();
        // only once, because a second interrupt ends the cleanup early
        if (stdout.includes(`\n${heading}`) && !child.killed) child.kill('SIGINT');
      });
      assert.equal((await end).status, 130);
      assertNothingLeft();
    });
  }

  test('uses REDIS_URL if no server is installed, leaves nothing in it, and names containerd if there is none', async () => {
    const redis = await startRedis();
    using programs = scratch();
    for (const folder of (process.env.PATH ?? '').split(delimiter).filter((folder) => existsSync(folder))) {
      for (const name of readdirSync(folder).filter((name) => !/^(redis|valkey)-|^containerd/.test(name))) {
        const link = join(programs.path, name);
        if (!existsSync(link)) symlinkSync(join(folder, name), link);
      }
    }
    const connection = new Redis(redis.url);
    try {
      const env = { TMPDIR: temporary, PATH: programs.path, REDIS_URL: redis.url };
      const { status, stdout, stderr } = await finished(startCli(['demo'], { env }));
      assert.equal(status, 0, stderr);
      assert.match(stdout, new RegExp(`^   ${redis.url}, `, 'm'));
      assert.match(stdout, /4 of 4 layers existed/);
      assert.match(stdout, /^7 {2}A container in containerd\n {3}To see it: apt-get install containerd runc\n/m);
      assert.deepEqual(await connection.keys('*'), []);
    } finally {
      connection.disconnect();
      await redis.stop();
    }
    assertNothingLeft();
  });

  test('with --keep runs until the interrupt and exits with 0', async () => {
    const child = start('--keep');
    const end = finished(child);
    let stdout = '';
    const board = await new Promise<string>((resolve, reject) => {
      child.once('exit', () => reject(new Error(stdout)));
      child.stdout?.on('data', (text: Buffer) => {
        stdout += text.toString();
        const url = /Up until Ctrl-C: (\S+)/.exec(stdout)?.[1];
        if (url !== undefined) resolve(url);
      });
    });
    await eventually('the board is ready', async () => (await fetch(`${board}/readyz`)).ok);
    child.kill('SIGINT');
    assert.equal((await end).status, 0);
    assertNothingLeft();
  });
});

function environmentOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8');
  } catch {
    return ''; // it has ended, or is somebody else's
  }
}

/** The complete output of a run, as README.md shows it. */
function demoOfReadme(): string {
  const readme = readFileSync(join(import.meta.dirname, '../../README.md'), 'utf8');
  return /^```text\n(1 [\s\S]*?)^```/m.exec(readme)?.[1] ?? '';
}

/** The words of an output, without what differs from run to run: times, sizes, digests, folders, ports. */
function withoutFigures(output: string): string {
  return output
    .replace(/\S*unpackd-demo-\w+/g, 'FOLDER')
    .replace(/sha256:[0-9a-f]+/g, 'DIGEST')
    .replace(/linux\/\w+/g, 'linux/ARCHITECTURE')
    .replace(/[\d.,]+( ?([KM]iB|B|ms|s)\b)?/g, 'N')
    .replace(/ +/g, ' ')
    .trim();
}
