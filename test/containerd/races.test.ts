import '../support/needs-root.ts';
import { describe, it } from 'node:test';
import { Random } from '../fuzz/random.ts';
import { PROGRAMS, skipWithoutContainerd } from './daemon.ts';
import { RacingJobs } from './racing-jobs.ts';

/** `npm run prove containerd` repeats it with other seeds. */
for (const program of PROGRAMS) {
  describe(`races in containerd ${program.version}`, { skip: skipWithoutContainerd() }, () => {
    it('100 jobs end right while ctr pulls the same images, and pulls and removes others', async () => {
      await using jobs = await RacingJobs.start(program);
      await jobs.run(100, new Random(1));
      await jobs.check();
    });
  });
}
