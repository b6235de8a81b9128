import { readdirSync, readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { UnpackError } from '../../src/errors.ts';
import { layersOf, startSuite } from '../conformance/conformance.ts';
import type { Outcome } from '../conformance/containerd.ts';
import { Archives } from './archives.ts';
import { mutate } from './mutations.ts';
import { Random } from './random.ts';

/**
 * `node test/fuzz/against-containerd.ts --inputs 500 --seed 1`: compares which archives containerd and unpackd accept, from
 * the corpus and random ones. Counts the differences by error message; the README explains them.
 */
const { values } = parseArgs({
  options: { inputs: { type: 'string', default: '500' }, seed: { type: 'string', default: '1' } },
});

const suite = await startSuite();
if ('missing' in suite) {
  process.stderr.write(`${suite.missing}\n`);
  process.exit(2);
}
const counts = new Map<string, { count: number; first: string }>();
try {
  for (const [name, archive] of inputs(Number(values.inputs), Number(values.seed))) {
    const layers = layersOf([archive]);
    const theirs = await suite.containerd.apply(layers, 'overlayfs');
    const ours = await suite.unpackd.apply(layers, 'overlay').catch(overTheLimit);
    const same = theirs.kind === ours.kind;
    const kind = same ? `both: ${ours.kind}` : `${describe('containerd', theirs)}; ${describe('unpackd', ours)}`;
    const known = counts.get(kind);
    if (known === undefined) counts.set(kind, { count: 1, first: name });
    else known.count++;
  }
} finally {
  await suite.close();
}
for (const [kind, { count, first }] of [...counts].sort((a, b) => b[1].count - a[1].count)) {
  process.stdout.write(`${String(count).padStart(6)}  ${kind}  (${first})\n`);
}

function* inputs(count: number, seed: number): Generator<[string, Buffer]> {
  const corpus = new URL('corpus/', import.meta.url);
  for (const name of readdirSync(corpus)) {
    if (name.endsWith('.tar')) yield [name, readFileSync(new URL(name, corpus))];
  }
  const random = new Random(seed);
  const archives = new Archives(random, '/outside');
  let other = archives.pieces();
  for (let i = 0; i < count; i++) {
    const pieces = archives.pieces();
    yield [`input ${i}`, mutate(pieces, random, other)];
    other = pieces;
  }
}

/** containerd has no such limits, so an archive above a limit counts as a failure. */
function overTheLimit(error: unknown): Outcome {
  if (!(error instanceof UnpackError) || error.code !== 'LIMIT_EXCEEDED') throw error;
  return { kind: 'refused', layer: 0, reason: error.message };
}

/** The error message without names and numbers. */
function describe(who: string, outcome: Outcome): string {
  if (outcome.kind === 'applied') return `${who} applies it`;
  const reason = outcome.reason
    .replace(/^.*of the tar:? /, '')
    .replace(/^.*failed to (extract layer|apply)[^:]*: /, '')
    .replace(/"(?:[^"\\]|\\.)*("|…)/g, '"…"')
    .replace(/\/\S*/g, '/…')
    .replace(/\d+/g, 'N');
  return `${who} refuses: ${reason.slice(0, 130)}`;
}
