import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { describe, it } from 'node:test';
import { skipWithout } from '../support/present.ts';
import { chainOf, someImage, stage, until } from './stage.ts';

describe('a worker at its limit of open files', { skip: skipWithout('prlimit') }, () => {
  it('fails jobs with advice, whichever file reached the limit, and continues once the limit is raised', async () => {
    await using s = await stage();
    const worker = await s.worker({ UNPACK_BACKOFF: '200ms', UNPACK_ATTEMPTS: '30' });
    const pid = String(worker.child.pid);
    const limit = (files: number) => execFileSync('prlimit', ['--pid', pid, `--nofile=${files}:`]);
    const chains: string[] = [];
    for (const more of [1, 0, 2, 3, 4, 5]) {
      const image = someImage(`files-${more}`, 3, 50);
      chains.push(...chainOf(image));
      await s.push(`files-${more}`, { app: image });
      const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
      let lowest = 0;
      while (open.has(lowest)) lowest++;
      const logged = worker.log().length;
      limit(lowest + more);
      const job = await s.queue.add(s.payload(`files-${more}`));
      // if the worker cannot open a file to probe its store, the attempt does not count
      await until(async () => {
        const { attemptsMade, state, progress } = await s.queue.status(job.id);
        const givenBack = (progress?.storeFaults ?? 0) > 0;
        return attemptsMade > 0 || givenBack || state === 'completed'; // it may have had enough
      });
      const { progress } = await s.queue.status(job.id);
      if ((progress?.storeFaults ?? 0) > 0) {
        const closes = /takes no more jobs until the store can be written: .*(too many open files|EMFILE)/;
        await until(() => closes.test(worker.log().slice(logged)), undefined, worker.log);
      }
      limit(4096);
      for (const { code, message, retryable } of progress?.failures ?? []) {
        assert.ok(code === 'STORE_FAILED' || code === 'SOURCE_UNAVAILABLE', `${code}: ${message}`);
        assert.match(message, /too many open files|EMFILE/);
        assert.ok(retryable);
      }
      const result = await s.queue.wait(job, { timeout: 120_000 });
      assert.equal(result.images[0]?.chainId, image.chainId);
    }
    assert.equal(worker.child.exitCode, null);
    const snapshots = () => readdirSync(`${s.root}/snapshots`).filter((name) => /^\d+$/.test(name));
    await until(() => snapshots().length === chains.length);
    await s.assertClean(chains);
  });
});
