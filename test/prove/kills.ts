import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Random } from '../fuzz/random.ts';
import { removeWithProcess } from '../support/child.ts';
import { Images } from './filled-store.ts';
import type { Proof } from './proof.ts';

/** Processes that unpack into one store are killed at random moments, some while others continue. */
export const proof: Proof = {
  name: 'kills',
  describes: 'a store whose processes are killed at any moment opens, and all that it calls committed is whole',
  missing: () => (process.getuid?.() === 0 ? false : 'files of other owners and devices need root'),
  async open(run) {
    const directory = await mkdtemp(join(tmpdir(), 'unpackd-kills-'));
    removeWithProcess(directory);
    const images = await Images.write(directory);
    let stores = 0;
    return {
      async attempt(seed) {
        const random = new Random(seed);
        const root = join(directory, `store-${stores++}`);
        const type = random.oneIn(4) ? 'native' : 'overlay';
        const durable = random.oneIn(2);
        const promised = new Set<string>();
        const generations = 1 + random.below(3);
        for (let generation = 0; generation < generations; generation++) {
          const processes = 1 + random.below(3);
          await using stack = new AsyncDisposableStack();
          const running = [];
          for (let i = 0; i < processes; i++) {
            const tags = random.shuffled(images.tags);
            running.push(stack.use(await images.fill(root, type, { durable }, tags)));
          }
          for (const each of running) {
            await images.moment(each, random);
            each.kill();
            await each.ended;
            for (const tag of each.reported.keys()) promised.add(tag);
            run.count('processes killed, or just ended');
          }
        }
        run.count('layers found whole', await images.check(root, type, promised, false));
        await images.goOn(root, type);
        run.count(`${type} stores`);
        await rm(root, { recursive: true, force: true });
      },
      [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
    };
  },
};
