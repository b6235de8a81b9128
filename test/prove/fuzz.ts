import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkApplying } from '../fuzz/apply.ts';
import { Archives } from '../fuzz/archives.ts';
import { mutate } from '../fuzz/mutations.ts';
import { kindOf } from '../fuzz/outcome.ts';
import { Random } from '../fuzz/random.ts';
import { checkReading } from '../fuzz/read.ts';
import { checkDecompressing, compressed } from '../fuzz/streams.ts';
import { Watchdog } from '../fuzz/watchdog.ts';
import { Sandbox } from '../support/sandbox.ts';
import type { Proof, Run } from './proof.ts';

/** Bytes. More growth of the memory of the process counts as a leak. */
const MEMORY_LIMIT = 700 << 20;
/** Mutants of each random archive, because making an archive takes longer than reading it. */
const MUTANTS = 6;

/** Random and damaged archives and blobs; see test/fuzz/README.md. */
export const proof: Proof = {
  name: 'fuzz',
  describes:
    'any archive and any blob is read, applied or refused, the same in any pieces, and nothing outside changes',
  missing: () => (process.getuid?.() === 0 ? false : 'devices and files of other owners need root'),
  async open(run) {
    const box = new Sandbox();
    const watchdog = new Watchdog(join(tmpdir(), `unpackd-fuzz-hang-${process.pid}.input`));
    const memory = process.memoryUsage.rss();
    return {
      async attempt(seed) {
        const random = new Random(seed);
        const archives = new Archives(random, box.outside);
        const other = archives.pieces();
        const pieces = archives.pieces();
        for (let i = 0; i < MUTANTS; i++) await one(mutate(pieces, random, other), random, box, watchdog, run);
        const now = process.memoryUsage.rss();
        if (now - memory > MEMORY_LIMIT) throw new Error(`the process grew from ${memory >> 20} to ${now >> 20} MiB`);
      },
      async [Symbol.asyncDispose]() {
        watchdog[Symbol.dispose]();
        box[Symbol.dispose]();
      },
    };
  },
};

async function one(archive: Buffer, random: Random, box: Sandbox, watchdog: Watchdog, run: Run): Promise<void> {
  let input = archive;
  const cut = random.pick([1, 13, 511, 512, 513, 1024, 3000]);
  const way = random.below(40);
  watchdog.begin(input);
  try {
    if (way < 5) {
      const below = random.pick(['later', 'later', 'parent', 'nothing']);
      note(run, `apply: ${kindOf(checkApplying(archive, Math.max(13, cut), below, box))}`, archive, 'tar');
    } else if (way < 7) {
      const blob = compressed(archive, random);
      input = blob.bytes;
      watchdog.begin(input);
      const result = await checkDecompressing(blob, cut);
      note(run, `stream: ${Buffer.isBuffer(result) ? 'ok' : kindOf(result)}`, input, blob.compression);
    } else {
      note(run, `read: ${kindOf(checkReading(archive, cut))}`, archive, 'tar');
    }
  } catch (error) {
    const digest = createHash('sha1').update(input).digest('hex').slice(0, 12);
    const file = join(run.save ?? tmpdir(), `unpackd-fuzz-found-${digest}`);
    if (run.save !== undefined) mkdirSync(run.save, { recursive: true });
    writeFileSync(file, input);
    throw new Error(`the input is in ${file}`, { cause: error });
  }
}

const kinds = new Set<string>();

/** Counts a kind of outcome. With `--save`, the first input of each kind is written to the corpus. */
function note({ count, save }: Run, kind: string, input: Buffer, extension: string): void {
  count(kind);
  if (kinds.has(kind) || save === undefined) return;
  kinds.add(kind);
  const name = kind
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .slice(0, 60)
    .replace(/-$/, '');
  mkdirSync(save, { recursive: true });
  writeFileSync(join(save, `${name}.${extension}`), input);
}
