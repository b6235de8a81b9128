import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import type { AddedUsage } from '../../src/diff/added-files.ts';
import { measureTree } from '../../src/snapshots/tree.ts';
import { applyTar, folder } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { device, directory, fifo, file, hardlink, opaque, symlink, tar, whiteout } from '../support/tar.ts';

const KIB = 1024;

/** What the writer counts for a bottom layer, after a check of its inodes against the tree. */
async function counted(archive: Buffer): Promise<AddedUsage> {
  using dir = scratch();
  const root = folder(dir.path, 'layer');
  const { usage } = applyTar(archive, { root });
  assert.equal(usage.inodes, (await measureTree(root, new AbortController().signal)).inodes);
  return usage;
}

describe('the layer writer counts', () => {
  it('the root, directories without an entry, and files in whole blocks', async () => {
    const archive = tar(file('a/b/one', 'x'), file('a/b/none', ''), directory('c'), file('c/big', 'y'.repeat(4097)));
    assert.deepEqual(await counted(archive), { bytes: 28 * KIB, inodes: 7 });
  });

  it('links, devices and FIFOs as inodes, and further hard links not at all', async () => {
    const archive = tar(
      file('file', 'text'),
      hardlink('again', 'file'),
      symlink('link', 'file'),
      fifo('fifo'),
      device('null', 'c', 1, 3),
    );
    assert.deepEqual(await counted(archive), { bytes: 8 * KIB, inodes: 5 });
  });

  it('a file once that several entries replace', async () => {
    const archive = tar(
      file('file', 'x'.repeat(100_000)),
      file('file', 'y'),
      symlink('link', 'a'),
      symlink('link', 'b'),
    );
    assert.deepEqual(await counted(archive), { bytes: 8 * KIB, inodes: 3 });
  });

  it('the whiteouts of an overlay', () => {
    using dir = scratch();
    const root = folder(dir.path, 'upper');
    const { usage } = applyTar(tar(whiteout('a/gone'), opaque('b')), { root, below: 'later' });
    assert.deepEqual(usage, { bytes: 12 * KIB, inodes: 4 });
  });

  it('in a full copy only what is new, and less for a file that is replaced', () => {
    using dir = scratch();
    const root = folder(dir.path, 'copy');
    mkdirSync(join(root, 'below'));
    writeFileSync(join(root, 'below/file'), 'x'.repeat(20 * KIB));
    const { usage } = applyTar(tar(file('below/file', 'y'), file('new', 'z')), { root, below: 'parent', copied: true });
    assert.deepEqual(usage, { bytes: (4 - 20 + 4) * KIB, inodes: 1 });
  });
});
