import assert from 'node:assert/strict';
import { chmodSync, chownSync, mkdirSync, readdirSync, readFileSync, symlinkSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import '../support/needs-root.ts';
import { TarReader } from '../../src/archive/tar-reader.ts';
import { LayerWriter, type WrittenLayer } from '../../src/diff/layer-writer.ts';
import type { PassFindings } from '../../src/diff/second-pass.ts';
import type { DiffTarget } from '../../src/diff/target.ts';
import { MemoryTree } from '../../src/erofs/memory-tree.ts';
import { AT_FDCWD, close, cString, O, openAt, setXattrAt } from '../../src/system/files.ts';
import { anyImage, archiveOf } from '../conformance/random-image.ts';
import { Archives } from '../fuzz/archives.ts';
import { refusal, sameOutcome, show } from '../fuzz/outcome.ts';
import { Random } from '../fuzz/random.ts';
import { LIMITS } from '../fuzz/read.ts';
import { acl } from '../support/acl.ts';
import { diffTarget } from '../support/apply.ts';
import { lentNow } from '../support/lent.ts';
import { Sandbox } from '../support/sandbox.ts';
import { differences } from './both-trees.ts';

const LAYERS = 250;
const IMAGES = 40;

/** How a layer is written: on a layer below, on nothing, before the layer below exists, as a full copy, without owners. */
type Place = Partial<DiffTarget>;

/** A directory of the kernel, or a tree in memory. */
type Destination = string | MemoryTree;

/**
 * Writes a layer, in a second pass too if it needs one.
 * @param destinations for each pass
 */
function write(archive: Buffer, place: Place, destinations: readonly [Destination, Destination]) {
  const pass = (to: Destination, findings: PassFindings | undefined): { written: WrittenLayer; to: Destination } => {
    const isPath = typeof to === 'string';
    const target = diffTarget({ root: isPath ? to : '', ...place });
    using writer = new LayerWriter(target, { findings, ...(isPath ? {} : { tree: to }) });
    const reader = new TarReader(writer, LIMITS);
    for (const piece of lentNow(archive, 5000)) reader.write(piece);
    reader.finish();
    writer.finish();
    return { written: writer.copyParentAttributes(), to };
  };
  try {
    const first = pass(destinations[0], undefined);
    const last = first.written.needsSecondPass ? pass(destinations[1], first.written.findings) : first;
    return { last, outcome: 'ok' as const };
  } catch (error) {
    return { last: undefined, outcome: refusal(error) };
  }
}

/** Fails if a layer becomes another tree in memory than in the kernel. @returns whether it was applied */
function check(archive: Buffer, place: Place, box: Sandbox): boolean {
  const since = Date.now() / 1000;
  for (const root of box.roots) chmodSync(root, 0o755);
  try {
    const kernel = write(archive, place, box.roots);
    const memory = write(archive, place, [new MemoryTree(), new MemoryTree()]);
    assert.ok(sameOutcome(memory.outcome, kernel.outcome), `${show(memory.outcome)}, kernel: ${show(kernel.outcome)}`);
    if (kernel.last === undefined || memory.last === undefined) return false;
    assert.deepEqual(comparable(memory.last.written), comparable(kernel.last.written));
    const [root, tree] = [kernel.last.to, memory.last.to];
    assert.ok(typeof root === 'string' && tree instanceof MemoryTree);
    assert.deepEqual(differences(root, tree.contents(), archive, since), []);
    return true;
  } finally {
    box.clean();
  }
}

/** Without the numbers of inodes, and without the bytes, because a file system gives a sparse file more blocks. */
function comparable({ impliedDirectories, directoryModes, usage, ...written }: WrittenLayer) {
  const without = <T extends { readonly inode: bigint }>(all: readonly T[] | undefined) =>
    all?.map((each) => ({ ...each, inode: 0n }));
  return { ...written, inodes: usage.inodes, implied: without(impliedDirectories), modes: without(directoryModes) };
}

/** A layer below with odd directories, in the kernel. */
function layerBelow(parent: string): string {
  const root = join(parent, 'below');
  for (const path of ['a/b/c', 'd/a/deep', 'b', 'c']) mkdirSync(join(root, path), { recursive: true });
  symlinkSync('d', join(root, 'l'));
  chownSync(join(root, 'a'), 7, 8);
  chmodSync(join(root, 'a'), 0o2750);
  chmodSync(join(root, 'd/a'), 0o1700);
  const fd = openAt(AT_FDCWD, cString(root), O.PATH | O.DIRECTORY);
  const list = acl('user::rwx,user:5:r-x,group::r-x,mask::r-x,other::---');
  setXattrAt(fd, cString('b'), cString('system.posix_acl_default'), list);
  setXattrAt(fd, cString('c'), cString('system.posix_acl_access'), list);
  setXattrAt(fd, cString('d'), cString('user.note'), Buffer.from('below'));
  close(fd);
  for (const path of ['a/b/c', 'a/b', 'a', 'd/a/deep', 'd/a', 'd', 'b', 'c'])
    utimesSync(join(root, path), 1, 1_400_000_000);
  return root;
}

describe('a layer in memory is the same tree as in the kernel', () => {
  it('for layers found by fuzzing, and random ones', () => {
    using box = new Sandbox();
    const lowers = [layerBelow(box.path)];
    const places = [
      { below: 'later', lowers: [] },
      { below: 'nothing', lowers: [] },
      { below: 'parent', lowers },
      { below: 'parent', lowers: [] },
      { below: 'later', lowers: [], ownership: 'squash' },
      { below: 'parent', lowers, ownership: 'squash' },
    ] as const satisfies readonly Place[];
    const corpus = new URL('../fuzz/corpus/', import.meta.url).pathname;
    for (const name of readdirSync(corpus).filter((each) => each.endsWith('.tar'))) {
      for (const place of places) check(readFileSync(join(corpus, name)), place, box);
    }
    for (const image of fc.sample(anyImage, { numRuns: IMAGES, seed: 7 })) {
      for (const [index, layer] of image.entries()) check(archiveOf(layer), index === 0 ? places[1] : places[2], box);
    }
    const random = new Random(7);
    const archives = new Archives(random, box.outside);
    let applied = 0;
    for (let i = 0; i < LAYERS; i++) {
      if (check(Buffer.concat(archives.pieces()), random.pick(places), box)) applied++;
    }
    assert.ok(applied > 50, `only ${applied} were applied`);
  });
});
