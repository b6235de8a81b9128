import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { Sandbox } from '../support/sandbox.ts';
import { checkApplying } from './apply.ts';
import { Archives } from './archives.ts';
import { mutate } from './mutations.ts';
import { kindOf, type Outcome } from './outcome.ts';
import { Random } from './random.ts';
import { checkReading } from './read.ts';
import { checkDecompressing, compressed } from './streams.ts';
import { Watchdog } from './watchdog.ts';

/**
 * `npm run fuzz -- --seconds 60 --seed 1`: random and damaged archives and blobs, each checked as read.ts, apply.ts and
 * streams.ts say. See README.md beside this file.
 */
const { values } = parseArgs({
  options: {
    seconds: { type: 'string' },
    inputs: { type: 'string' },
    seed: { type: 'string', default: '1' },
    mode: { type: 'string', default: 'mix' },
    save: { type: 'string' },
    found: { type: 'string', default: '.' },
  },
});

/** Growth of the process's memory that counts as a leak, in bytes. */
const MEMORY_LIMIT = 700 << 20;
/** Mutants of one random archive: making it costs more than reading it. */
const MUTANTS = 6;

const seed = Number(values.seed);
const seconds = values.seconds === undefined ? Number.POSITIVE_INFINITY : Number(values.seconds);
const inputs = values.inputs === undefined ? Number.POSITIVE_INFINITY : Number(values.inputs);
if (seconds === Number.POSITIVE_INFINITY && inputs === Number.POSITIVE_INFINITY) {
  process.stderr.write(
    'usage: npm run fuzz -- --seconds N | --inputs N [--seed S] [--mode read|apply|stream|mix] [--save DIRECTORY]\n',
  );
  process.exit(2);
}

const random = new Random(seed);
using sandbox = new Sandbox();
const hangFile = join(values.found, `hang-${seed}.tar`);
using watchdog = new Watchdog(hangFile);
const archives = new Archives(random, sandbox.outside);
const counts = { read: 0, applied: 0, decompressed: 0 };
const kinds = new Map<string, number>();
const failures = new Map<string, number>();
const memory = process.memoryUsage.rss();
const started = performance.now();
let reported = started;

let other: readonly Buffer[] = archives.pieces();
while (total() < inputs && performance.now() - started < seconds * 1000) {
  const pieces = archives.pieces();
  for (let i = 0; i < MUTANTS; i++) await one(mutate(pieces, random, other));
  other = pieces;
  if (performance.now() - reported > 30_000) report();
}
report();
for (const [kind, count] of [...kinds].sort((a, b) => b[1] - a[1]))
  process.stdout.write(`${String(count).padStart(9)}  ${kind}\n`);
if (failures.size > 0) process.exitCode = 1;

async function one(archive: Buffer): Promise<void> {
  watchdog.begin(archive);
  let input = archive;
  const cut = random.pick([1, 13, 511, 512, 513, 1024, 3000]);
  const mode = values.mode === 'mix' ? modeOf(random.below(40)) : values.mode;
  try {
    if (mode === 'apply') {
      const whiteouts = random.pick(['overlay', 'overlay', 'remove', 'none']);
      note(`apply: ${kindOf(checkApplying(archive, Math.max(13, cut), whiteouts, sandbox))}`, archive);
      counts.applied++;
    } else if (mode === 'stream') {
      const blob = compressed(archive, random);
      input = blob.bytes;
      watchdog.begin(input);
      const result = await checkDecompressing(blob, cut);
      note(`stream: ${Buffer.isBuffer(result) ? 'ok' : kindOf(result)}`, blob.bytes, blob.compression);
      counts.decompressed++;
    } else {
      note(`read: ${kindOf(checkReading(archive, cut) satisfies Outcome)}`, archive);
      counts.read++;
    }
  } catch (error) {
    failed(input, error);
  }
  if (total() % 4096 === 0) checkMemory();
}

function modeOf(number: number): string {
  return number < 5 ? 'apply' : number < 7 ? 'stream' : 'read';
}

function total(): number {
  return counts.read + counts.applied + counts.decompressed;
}

/** Counts a kind of outcome; the first of each is kept where the run saves a corpus. */
function note(kind: string, input: Buffer, extension = 'tar'): void {
  const count = kinds.get(kind) ?? 0;
  kinds.set(kind, count + 1);
  if (count > 0 || values.save === undefined) return;
  const name = kind
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .slice(0, 60)
    .replace(/-$/, '');
  mkdirSync(values.save, { recursive: true });
  writeFileSync(join(values.save, `${name}.${extension}`), input);
}

function failed(archive: Buffer, error: unknown): void {
  counts.read++;
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  const kind = text.split('\n')[0]?.replace(/\d+/g, 'N').slice(0, 100) ?? '';
  const count = failures.get(kind) ?? 0;
  failures.set(kind, count + 1);
  if (count > 2) return;
  const digest = createHash('sha1').update(archive).digest('hex').slice(0, 12);
  mkdirSync(values.found, { recursive: true });
  const file = join(values.found, `found-${digest}.tar`);
  writeFileSync(file, archive);
  process.stdout.write(`FOUND ${file}: ${text.slice(0, 3000)}\n`);
}

function checkMemory(): void {
  const now = process.memoryUsage.rss();
  if (now - memory > MEMORY_LIMIT) {
    process.stdout.write(`FOUND: the process grew from ${memory >> 20} to ${now >> 20} MiB\n`);
    process.exit(1);
  }
}

function report(): void {
  reported = performance.now();
  const elapsed = (reported - started) / 1000;
  const { read, applied, decompressed } = counts;
  const rss = (process.memoryUsage.rss() / 2 ** 20).toFixed(0);
  process.stdout.write(
    `${elapsed.toFixed(0)} s: ${read} read, ${applied} applied, ${decompressed} decompressed, ` +
      `${(total() / elapsed).toFixed(0)}/s, ${kinds.size} kinds, ${failures.size} kinds of failures, ${rss} MiB\n`,
  );
}
