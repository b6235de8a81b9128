import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Random } from '../fuzz/random.ts';
import { removeWithProcess } from '../support/child.ts';
import { DISK_KINDS, Disk, disksMissing } from './disk.ts';
import { Images, type Manner } from './filled-store.ts';
import type { Proof } from './proof.ts';

/** What ends the processes of a phase. After `remount`, nothing is lost, but no process can know that. */
const ENDS = ['power cut', 'power cut', 'kill', 'remount'] as const;
/** The processes that unpack at the same time. */
type Manners = Readonly<Record<string, Manner>>;
const DURABLE: Manners = { durable: { durable: true } };
const CACHED: Manners = { cached: { durable: false } };
const MANNERS: readonly Manners[] = [
  DURABLE,
  CACHED,
  { durable: { durable: true }, cached: { durable: false } },
  { cached: { durable: false }, 'cached elsewhere': { durable: false, elsewhere: true } },
  { durable: { durable: true }, 'cached elsewhere': { durable: false, elsewhere: true } },
];

export const proof: Proof = {
  name: 'power-cuts',
  describes:
    'a power cut at any moment takes nothing from an image that was reported as durable, and no store calls a damaged layer usable',
  missing: disksMissing,
  async open({ count }) {
    const directory = await mkdtemp(join(tmpdir(), 'unpackd-power-'));
    removeWithProcess(directory);
    const images = await Images.write(directory);
    let disks = 0;
    return {
      async attempt(seed) {
        const random = new Random(seed);
        const kind = random.pick(DISK_KINDS);
        const type = random.oneIn(4) ? 'native' : 'overlay';
        await using disk = await Disk.make(join(directory, `disk-${disks++}`), kind);
        const root = join(disk.path, 'store');
        const durable = new Set<string>();
        const phases = 1 + random.below(3);
        // a third of the cases demand synced layers in each phase, a third in none
        const choices = random.pick([[DURABLE], [CACHED], MANNERS]);
        let modes: string[] = [];
        for (let phase = 0; phase < phases; phase++) {
          // the last phase ends with a power cut
          const end = phase === phases - 1 ? 'power cut' : random.pick(ENDS);
          const manners = random.pick(choices);
          modes = [...modes, ...Object.keys(manners)];
          /** Tags that were reported and are not synced. They can be used until the disk is unmounted. */
          const cached = new Set<string>();
          await using stack = new AsyncDisposableStack();
          const fillings = [];
          for (const manner of Object.values(manners)) {
            const syncAfter = random.oneIn(2) ? 1 + random.below(images.tags.length) : 0;
            const tags = random.shuffled(images.tags);
            fillings.push({
              manner,
              filling: stack.use(await images.fill(root, type, { ...manner, syncAfter }, tags)),
            });
          }
          for (const { filling } of fillings) await images.moment(filling, random);
          // what is reported after a power cut is not a promise
          for (const { filling, manner } of fillings) {
            for (const [tag, isDurable] of filling.reported) {
              if (isDurable) durable.add(tag);
              else if (manner.elsewhere !== true) cached.add(tag);
            }
          }
          if (end === 'power cut') disk.cutPower();
          for (const { filling } of fillings) await filling[Symbol.asyncDispose]();
          if (end !== 'kill') await disk.comeBack();
          count(`usable layers found whole after a ${end}, durable`, await images.check(root, type, durable, true));
          const promised = end === 'kill' ? [...durable, ...cached] : durable;
          count(
            `usable layers found whole after a ${end}, not durable`,
            await images.check(root, type, promised, false),
          );
          count(`${end}: ${Object.keys(manners).join(' and ')}`);
        }
        await images.goOn(root, type);
        count(`${kind}, ${type}, ${new Set(modes).size > 1 ? 'mixed' : modes[0]}`);
      },
      [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
    };
  },
};
