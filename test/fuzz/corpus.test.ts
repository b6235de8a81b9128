import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { Sandbox } from '../support/sandbox.ts';
import { checkApplying } from './apply.ts';
import { Archives } from './archives.ts';
import { mutate } from './mutations.ts';
import { Random } from './random.ts';
import { checkReading } from './read.ts';
import { checkDecompressing, compressed } from './streams.ts';

const CORPUS = new URL('corpus/', import.meta.url).pathname;
const BELOW = ['later', 'parent', 'nothing'] as const;

describe('inputs found by fuzzing', () => {
  const files = readdirSync(CORPUS);

  it('are, as archives, refused or applied with the same result in any pieces, with openat2 and without', () => {
    using box = new Sandbox();
    for (const name of files.filter((name) => name.endsWith('.tar'))) {
      const archive = readFileSync(join(CORPUS, name));
      try {
        for (const cut of [13, 512, 1000]) checkReading(archive, cut);
        for (const below of BELOW) checkApplying(archive, 700, below, box);
      } catch (error) {
        assert.fail(`${name}: ${String(error)}`);
      }
    }
  });

  it('are, as blobs, refused or decompressed with the same result in any pieces, by Node’s streams and natively', async () => {
    for (const name of files) {
      const compression = name.endsWith('.gzip') ? 'gzip' : name.endsWith('.zstd') ? 'zstd' : undefined;
      if (compression === undefined) continue;
      const bytes = readFileSync(join(CORPUS, name));
      for (const cut of [1, 100]) await checkDecompressing({ bytes, compression }, cut);
    }
  });

  it('are less than a megabyte in all', () => {
    const total = files.reduce((sum, name) => sum + readFileSync(join(CORPUS, name)).length, 0);
    assert.ok(total < 1 << 20, `${total} bytes`);
  });
});

describe('fuzzing', () => {
  it('finds nothing in a few thousand new inputs', async () => {
    using box = new Sandbox();
    const random = new Random(1);
    const archives = new Archives(random, box.outside);
    let other = archives.pieces();
    for (let i = 0; i < 500; i++) {
      const pieces = archives.pieces();
      for (let mutant = 0; mutant < 4; mutant++) checkReading(mutate(pieces, random, other), 513);
      checkApplying(mutate(pieces, random, other), 1000, random.pick(BELOW), box);
      if (i % 10 === 0) await checkDecompressing(compressed(mutate(pieces, random, other), random), 100);
      other = pieces;
    }
  });
});
