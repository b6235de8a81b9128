import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { TarReader } from '../../src/archive/tar-reader.ts';
import { LayerWriter } from '../../src/diff/layer-writer.ts';
import { copyParentAttributes, copyParentAttributesInTurns } from '../../src/diff/parent-attributes.ts';
import type { DiffTarget } from '../../src/diff/target.ts';
import { UnpackError } from '../../src/errors.ts';
import { LIMITS } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, gnuLong, type Member, opaque, symlink, tar, whiteout } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

const FILES = 3000;

/** A folder with `old`, which holds many files, in two directories. */
function crowded() {
  const dir = scratch();
  for (const name of ['old', 'old/sub']) {
    mkdirSync(join(dir.path, name));
    for (let i = 0; i < FILES / 2; i++) writeFileSync(join(dir.path, name, `${i}`), '');
  }
  return dir;
}

/** Applies a layer, all of it in one piece, until it has been asked `patience` times; says how often it was asked. */
function apply(root: string, members: readonly (Member | Buffer)[], patience = Number.POSITIVE_INFINITY): number {
  let asked = 0;
  const checkpoint = (): void => {
    asked++;
    if (asked > patience) throw new UnpackError('TIMED_OUT', 'enough');
  };
  const target: DiffTarget = {
    root,
    lowers: [],
    below: 'parent',
    opaqueXattr: 'trusted.overlay.opaque',
    ownership: 'keep',
    copied: false,
  };
  using writer = new LayerWriter(target, { checkpoint });
  const reader = new TarReader(writer, LIMITS);
  reader.write(tar(...members));
  reader.finish();
  writer.finish();
  writer.settle();
  return asked;
}

/** How many paths are left. */
const left = (root: string): number => Object.keys(readTree(root)).length;

describe('work that an archive makes long can be given up', () => {
  for (const [what, members] of Object.entries({
    'while a file takes the place of a big directory': [file('old')],
    'while a big directory is deleted': [whiteout('old')],
    'while a big directory is deleted that the layer wrote into': [file('old/new'), whiteout('old')],
    'while a big directory is made opaque': [opaque('old')],
  })) {
    it(what, () => {
      using dir = crowded();
      const before = left(dir.path);
      assert.throws(() => apply(dir.path, members, 100), /enough/);
      // at most one thing is removed between two questions
      assert.ok(left(dir.path) >= before - 100, `${before - left(dir.path)} removed`);
      assert.ok(apply(dir.path, members) >= FILES - 100);
    });
  }

  it('while the names of a big directory are read, before the first is removed', () => {
    using dir = crowded();
    const before = left(dir.path);
    assert.throws(() => apply(dir.path, [file('old')], 2), /enough/);
    assert.equal(left(dir.path), before);
  });

  it('at every entry', () => {
    using dir = scratch();
    const files = Array.from({ length: 500 }, (_, i) => file(`f${i}`));
    assert.throws(() => apply(dir.path, files, 100), /enough/);
    assert.equal(left(dir.path), 100);
  });

  it('at every step of a path that leads in circles', () => {
    using dir = scratch();
    const circles = Buffer.from(`${'d/../'.repeat(500)}d`);
    const entries = [directory('d'), gnuLong('K', circles), symlink('l', '', { format: 'gnu' }), file('l/f')];
    assert.ok(apply(dir.path, entries) >= 1000);
    assert.throws(() => apply(dir.path, entries, 500), /enough/);
  });

  it('while directories get their times', () => {
    using dir = scratch();
    const directories = Array.from({ length: 500 }, (_, i) => directory(`d${i}`));
    assert.ok(apply(dir.path, directories) >= 1000);
    assert.throws(() => apply(dir.path, directories, 700), /enough/);
  });
});

describe('directories that no entry names', () => {
  const NEEDED = 2000;
  const implied = Array.from({ length: NEEDED }, (_, i) => ({
    path: `d${i}`,
    inode: 1n,
    given: undefined,
    inUnnamed: false,
    timed: false,
    deleted: false,
  }));

  it('are settled with a question for each', () => {
    using dir = scratch();
    let asked = 0;
    copyParentAttributes(dir.path, implied, [dir.path], undefined, () => asked++);
    assert.ok(asked >= NEEDED);
  });

  it('are settled in turns where others wait for the thread, until it is told to stop', async () => {
    using dir = scratch();
    const abort = new AbortController();
    // each of them is looked for in many layers, so that this takes some turns
    const lowers = Array.from({ length: 100 }, () => dir.path);
    const settling = copyParentAttributesInTurns(dir.path, implied, lowers, undefined, abort.signal);
    let turns = 0;
    const turn = (): void => {
      turns++;
      if (turns === 2) abort.abort(new UnpackError('TIMED_OUT', 'enough'));
      else setImmediate(turn);
    };
    setImmediate(turn);
    await assert.rejects(settling, { code: 'TIMED_OUT' });
    assert.equal(turns, 2);
    assert.equal(
      await copyParentAttributesInTurns(dir.path, implied.slice(0, 10), [dir.path], undefined, undefined),
      false,
    );
  });
});
