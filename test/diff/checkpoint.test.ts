import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { TarReader } from '../../src/archive/tar-reader.ts';
import { LayerWriter } from '../../src/diff/layer-writer.ts';
import { copyParentAttributes, copyParentAttributesInTurns } from '../../src/diff/parent-attributes.ts';
import { type DiffTarget, openTarget } from '../../src/diff/target.ts';
import { UnpackError } from '../../src/errors.ts';
import { LIMITS } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { directory, file, gnuLong, type Member, opaque, symlink, tar, whiteout } from '../support/tar.ts';
import { readTree } from '../support/tree.ts';

const FILES = 3000;

/** A directory tree `old` with many files in two directories. */
function crowded() {
  const dir = scratch();
  for (const name of ['old', 'old/sub']) {
    mkdirSync(join(dir.path, name));
    for (let i = 0; i < FILES / 2; i++) writeFileSync(join(dir.path, name, `${i}`), '');
  }
  return dir;
}

/** Applies a layer in one piece, and aborts it at the checkpoint number `patience`. @returns the number of checkpoints */
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
    collectedBy: 'unpackd',
    copied: false,
  };
  using writer = new LayerWriter(target, { checkpoint });
  const reader = new TarReader(writer, LIMITS);
  reader.write(tar(...members));
  reader.finish();
  writer.finish();
  writer.copyParentAttributes();
  return asked;
}

/** Number of paths that are left. */
const left = (root: string): number => Object.keys(readTree(root)).length;

describe('work that an archive makes long can be aborted', () => {
  for (const [what, members] of Object.entries({
    'while a file replaces a large directory': [file('old')],
    'while a large directory is deleted': [whiteout('old')],
    'while a large directory is deleted after the layer has written into it': [file('old/new'), whiteout('old')],
    'while a large directory is made opaque': [opaque('old')],
  })) {
    it(what, () => {
      using dir = crowded();
      const before = left(dir.path);
      assert.throws(() => apply(dir.path, members, 100), /enough/);
      // at most one file is removed between two checkpoints
      assert.ok(left(dir.path) >= before - 100, `${before - left(dir.path)} removed`);
      assert.ok(apply(dir.path, members) >= FILES - 100);
    });
  }

  it('while the names of a large directory are read, before the first file is removed', () => {
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

  it('at every step of a path whose symbolic links form a loop', () => {
    using dir = scratch();
    const circles = Buffer.from(`${'d/../'.repeat(500)}d`);
    const entries = [directory('d'), gnuLong('K', circles), symlink('l', '', { format: 'gnu' }), file('l/f')];
    assert.ok(apply(dir.path, entries) >= 1000);
    assert.throws(() => apply(dir.path, entries, 500), /enough/);
  });

  it('while the times of directories are set', () => {
    using dir = scratch();
    const directories = Array.from({ length: 500 }, (_, i) => directory(`d${i}`));
    assert.ok(apply(dir.path, directories) >= 1000);
    assert.throws(() => apply(dir.path, directories, 700), /enough/);
  });
});

describe('implied directories', () => {
  const NEEDED = 2000;
  const implied = Array.from({ length: NEEDED }, (_, i) => ({
    path: `d${i}`,
    inode: 1n,
    given: undefined,
    inUnnamed: false,
    timed: false,
    deleted: false,
  }));

  it('call the checkpoint once each when they get the attributes of the parent', () => {
    using dir = scratch();
    using root = openTarget({ root: dir.path });
    let asked = 0;
    copyParentAttributes(root, { lowers: [dir.path] }, implied, undefined, () => asked++);
    assert.ok(asked >= NEEDED);
  });

  it('get their attributes in turns of the event loop, until the signal aborts', async () => {
    using dir = scratch();
    const abort = new AbortController();
    // each directory is looked for in many layers, so this takes several turns
    const lowers = Array.from({ length: 100 }, () => dir.path);
    const settling = copyParentAttributesInTurns({ root: dir.path, lowers }, implied, undefined, abort.signal);
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
      await copyParentAttributesInTurns(
        { root: dir.path, lowers: [dir.path] },
        implied.slice(0, 10),
        undefined,
        undefined,
      ),
      false,
    );
  });
});
