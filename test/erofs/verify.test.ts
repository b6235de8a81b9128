import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { IndexedTar } from '../../src/erofs/indexed-tar.ts';
import { LayerFile } from '../../src/erofs/layer-file.ts';
import { type LayerDamage, verifyLayerFile } from '../../src/erofs/verify.ts';
import { type DiffId, diffId } from '../../src/oci/digest.ts';
import { LIMITS } from '../support/apply.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

const DATA_START = 4096;
const checkpoint = (): void => {};

const digestOf = (bytes: Buffer): DiffId => diffId(`sha256:${createHash('sha256').update(bytes).digest('hex')}`);

/** Writes a tar into a layer file, as the apply thread does. */
function writeLayer(path: string, archive: Buffer): void {
  using layer = new LayerFile(path);
  using indexed = new IndexedTar({ limits: LIMITS, checkpoint });
  for (let at = 0; at < archive.length; at += 7000) {
    const piece = archive.subarray(at, at + 7000);
    layer.write(piece);
    indexed.write(piece);
  }
  layer.finish(indexed.finish().tree, { diffId: digestOf(archive), sync: false, checkpoint });
}

const verify = (path: string, id: DiffId) => verifyLayerFile(path, { diffId: id, limits: LIMITS, checkpoint });

const ARCHIVE = tar(...['a', 'b', 'c'].map((name) => file(`folder/${name}`, name.repeat(3000))));
const ID = digestOf(ARCHIVE);

test('a layer file is whole, however its tar is long', async () => {
  using place = scratch();
  for (const [name, archive] of [
    ['layer', ARCHIVE],
    ['empty', Buffer.alloc(0)],
    ['without an end mark', ARCHIVE.subarray(0, 512 * 14)],
  ] as const) {
    const path = join(place.path, name);
    writeLayer(path, archive);
    assert.equal(await verify(path, digestOf(archive)), undefined, name);
    assert.deepEqual(readFileSync(path).subarray(DATA_START, DATA_START + archive.length), archive);
  }
});

test('each kind of damage is found', async () => {
  using place = scratch();
  const whole = join(place.path, 'whole');
  writeLayer(whole, ARCHIVE);
  const { size } = statSync(whole);
  const index = DATA_START + ARCHIVE.length;
  const set = (at: number, byte: number) => (fd: number) => writeSync(fd, Buffer.of(byte), 0, 1, at);
  const damages: Readonly<Record<string, [part: LayerDamage['part'], damage: (fd: number) => unknown]>> = {
    'a byte of content': ['tar', set(DATA_START + 600, 0x7a)],
    'a byte of a header': ['tar', set(DATA_START + 3, 0x7a)],
    'a byte between the entries': ['tar', set(index - 1, 0x7a)],
    'the first byte of the index': ['index', set(index + 64, 0xff)],
    'the last byte of the index': ['index', set(size - 1, 0x7a)],
    'a byte of the superblock': ['superblock', set(1024 + 20, 0x7a)],
    'a byte of the superblock that its checksum does not cover': ['superblock', set(2000, 0x7a)],
    'a byte before the superblock': ['superblock', set(100, 0x7a)],
    'the recorded length of the tar': ['superblock', set(0, 0)],
    'a length that is longer than the file': ['length', set(8 + 4, 0x7a)],
    'a shorter tar in the record': ['tar', set(9, 0x2c)],
    'one byte less': ['length', (fd) => ftruncateSync(fd, size - 1)],
    'only the tar': ['length', (fd) => ftruncateSync(fd, index)],
    'half of the tar': ['length', (fd) => ftruncateSync(fd, DATA_START + 1000)],
    'one byte more': ['length', (fd) => ftruncateSync(fd, size + 1)],
    'all of it': ['length', (fd) => ftruncateSync(fd, 0)],
  };
  for (const [name, [part, damage]] of Object.entries(damages)) {
    const path = join(place.path, 'damaged');
    copyFileSync(whole, path);
    const fd = openSync(path, 'r+');
    damage(fd);
    closeSync(fd);
    const found = await verify(path, ID);
    assert.equal(found?.part, part, `${name}: ${found?.what ?? 'nothing was found'}`);
  }
});

test('the file of another layer is found', async () => {
  using place = scratch();
  const path = join(place.path, 'layer');
  writeLayer(path, tar(file('other')));
  assert.equal((await verify(path, ID))?.part, 'tar');
});

test('a tar with holes whose data lie anywhere is compared, too', async () => {
  using place = scratch();
  const path = join(place.path, 'layer');
  const pax = Object.entries({
    'GNU.sparse.size': '100000',
    'GNU.sparse.numblocks': '2',
    'GNU.sparse.map': '10,2500,70001,2500',
  });
  const archive = tar(file('sparse', 'x'.repeat(5000), { pax }));
  writeLayer(path, archive);
  assert.equal(await verify(path, digestOf(archive)), undefined);
  const bytes = readFileSync(path);
  const moved = DATA_START + Math.ceil(archive.length / 512) * 512;
  bytes[moved + 20] = 0x79;
  writeFileSync(path, bytes);
  assert.equal((await verify(path, digestOf(archive)))?.part, 'index');
});
