import '../support/needs-root.ts';
import { describe, it } from 'node:test';
import { PROGRAMS, skipWithoutContainerd } from './daemon.ts';
import { KilledJobs, momentsOf } from './killed-jobs.ts';

/**
 * A kill at every step of a job, with the newest containerd here. `npm run prove containerd` does it with the others, at
 * random steps of several jobs.
 */
for (const program of PROGRAMS.slice(-1)) {
  describe(`kills with containerd ${program.version}`, { skip: skipWithoutContainerd() }, () => {
    it('containerd is killed at each step of a job, and the retry ends right', async () => {
      await using jobs = await KilledJobs.start(program);
      for (const moment of momentsOf(await jobs.calls(), 'containerd')) await jobs.killContainerd(moment);
      await jobs.check();
    });

    it('unpackd is killed at each step of a job, and the next process ends it right', async () => {
      await using jobs = await KilledJobs.start(program);
      for (const moment of momentsOf(await jobs.callsOfProcess(), 'unpackd')) await jobs.killUnpackd(moment);
      await jobs.check();
    });
  });
}
