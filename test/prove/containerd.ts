import { PROGRAMS, skipWithoutContainerd } from '../containerd/daemon.ts';
import { KilledJobs } from '../containerd/killed-jobs.ts';
import { RacingJobs } from '../containerd/racing-jobs.ts';
import { Random } from '../fuzz/random.ts';
import type { Proof } from './proof.ts';

/** More than the calls of four jobs at once, so that some kills come after the last. */
const CALLS = 220;

/** Jobs of a race. */
const JOBS = 100;

/** Jobs that unpack into containerd, while containerd or unpackd is killed, or `ctr` pulls and removes images. */
export const proof: Proof = {
  name: 'containerd',
  describes:
    'jobs that unpack into containerd end right and leave nothing, whoever is killed, and whatever ctr pulls and removes meanwhile',
  missing: skipWithoutContainerd,
  async open(run) {
    return {
      async attempt(seed) {
        const random = new Random(seed);
        const program = random.pick(PROGRAMS);
        if (random.oneIn(3)) {
          await using jobs = await RacingJobs.start(program);
          await jobs.run(JOBS, random);
          await jobs.check();
          run.count(`races with ctr, ${program.version}`);
          return;
        }
        await using jobs = await KilledJobs.start(program);
        for (let kill = 0; kill < 4; kill++) {
          const moment = { call: random.below(CALLS), phase: random.pick(['before', 'after']) };
          if (random.oneIn(2)) await jobs.killContainerd(moment, 4);
          else await jobs.killUnpackd({ ...moment, call: moment.call % (CALLS / 4) });
        }
        await jobs.check();
        run.count(`stores after four kills, ${program.version}`);
      },
      [Symbol.asyncDispose]: async () => {},
    };
  },
};
