import assert from 'node:assert/strict';
import { closeSync, constants, lstatSync, mkdirSync, openSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import '../support/needs-root.ts';
import { ImageReader } from '../../src/erofs/image-reader.ts';
import { writeIndexFile } from '../../src/erofs/index-file.ts';
import { LayerFile } from '../../src/erofs/layer-file.ts';
import { UnpackError } from '../../src/errors.ts';
import { diffId } from '../../src/oci/digest.ts';
import { unmountSnapshot } from '../../src/system/mount.ts';
import { mountImage } from '../../src/system/mount-image.ts';
import { skipWithoutErofs } from '../support/erofs.ts';
import { tmpfs } from '../support/file-system.ts';
import { scratch } from '../support/scratch.ts';
import { readTree } from '../support/tree.ts';
import { type Described, describedTree } from './described-tree.ts';

const skip = skipWithoutErofs();
const DIFF_ID = diffId(`sha256:${'07'.repeat(32)}`);
const BLOCK = 512;
/** Each block of the tar has its own byte, so that wrong content is seen. */
const TAR = Buffer.concat(Array.from({ length: 64 }, (_, block) => Buffer.alloc(BLOCK, 0x20 + block)));

const tree = (entries: Readonly<Record<string, Described>>, more: Described = {}): Described => ({
  mode: 0o755,
  ...more,
  entries: new Map(Object.entries(entries)),
});
const EMPTY: Described = { size: 0 };
const content = (block: number, size: number): Described => ({
  size,
  extents: [{ position: 0, length: size, offset: block * BLOCK }],
});

/** Writes a layer file of a tree. @returns its path */
function written(folder: string, root: Described, name = 'layer.erofs'): string {
  const path = join(folder, name);
  using file = new LayerFile(path);
  for (let at = 0; at < TAR.length; at += 1000) file.write(TAR.subarray(at, at + 1000));
  file.finish(describedTree(root).contents(), { diffId: DIFF_ID, sync: false, checkpoint: () => {} });
  return path;
}

/** Mounts an image and calls `look` with the path of its tree. */
async function mounted<T>(folder: string, root: Described, look: (path: string) => T | Promise<T>): Promise<T> {
  const target = join(folder, 'tree');
  mkdirSync(target, { recursive: true });
  mountImage({ path: written(folder, root), devices: [] }, target);
  try {
    return await look(target);
  } finally {
    await unmountSnapshot(target);
  }
}

suite('the kernel reads from a layer file', { skip }, () => {
  test('files of every type, with their attributes', async () => {
    using place = scratch();
    const hard: Described = {
      ...content(3, 700),
      mode: 0o4755,
      uid: 70000,
      gid: 80_000,
      seconds: 1_700_000_000,
      nanoseconds: 123_456_789,
      xattrs: {
        'user.a': Buffer.from('1'),
        'user.long': Buffer.alloc(5000, 0x61),
        'trusted.overlay.opaque': Buffer.from('y'),
      },
    };
    const root = tree({
      hard,
      'other name': hard,
      'before 1970': { ...EMPTY, seconds: -5, nanoseconds: 1 },
      'after 2106': { ...EMPTY, seconds: 5_000_000_000 },
      device: { mode: 0o020600, device: { major: 4095, minor: 0xfffff } },
      block: { mode: 0o060600, device: { major: 8, minor: 300 } },
      whiteout: { mode: 0o020000 },
      fifo: { mode: 0o010644 },
      directory: tree({ below: EMPTY }, { mode: 0o1777 }),
    });
    const seen = await mounted(place.path, root, readTree);
    assert.deepEqual(Object.keys(seen).sort(), [
      'after 2106',
      'before 1970',
      'block',
      'device',
      'directory',
      'directory/below',
      'fifo',
      'hard',
      'other name',
      'whiteout',
    ]);
    assert.equal(seen.hard?.mode, '4755');
    assert.equal(seen.hard?.owner, '70000:80000');
    assert.equal(seen.hard?.mtime, 1_700_000_000_123_456_789n);
    assert.equal(Object.keys(seen.hard?.xattrs ?? {}).length, 3);
    assert.equal(seen['other name']?.linkedTo, 'hard');
    assert.equal(seen['before 1970']?.mtime, -4_999_999_999n);
    assert.equal(seen['after 2106']?.mtime, 5_000_000_000_000_000_000n);
    assert.equal(seen.device?.device, '4095:1048575');
    assert.equal(seen.block?.device, '8:300');
    assert.equal(seen.whiteout?.device, '0:0');
    assert.equal(seen.directory?.mode, '1777');
  });

  test('the content where it lies in the tar', async () => {
    using place = scratch();
    const root = tree({ one: content(0, 1), several: content(1, 2000), last: content(60, 4 * BLOCK), empty: EMPTY });
    await mounted(place.path, root, (path) => {
      for (const [name, block, size] of [
        ['one', 0, 1],
        ['several', 1, 2000],
        ['last', 60, 4 * BLOCK],
        ['empty', 0, 0],
      ] as const) {
        assert.deepEqual(readFileSync(join(path, name)), TAR.subarray(block * BLOCK, block * BLOCK + size), name);
      }
    });
  });

  test('names in the order of their bytes, also around "." and ".."', async () => {
    using place = scratch();
    const names = ['!', '-', '.-', '..-', '...', '.a', '0', '\xff', 'a'.repeat(255)];
    const root = tree(Object.fromEntries(names.map((name) => [name, EMPTY])));
    const seen = await mounted(place.path, root, readTree);
    assert.deepEqual(Object.keys(seen).sort(), names.sort());
  });

  test('a directory of 20,000 entries, and 300 directories in each other', async () => {
    using place = scratch();
    let deep: Described = EMPTY;
    for (let level = 0; level < 300; level++) deep = tree({ d: deep });
    const many = tree(Object.fromEntries(Array.from({ length: 20_000 }, (_, number) => [`file ${number}`, EMPTY])));
    await mounted(place.path, tree({ deep, many }), (path) => {
      for (const number of [0, 1, 9_999, 19_999]) assert.equal(statSync(join(path, `many/file ${number}`)).size, 0);
      assert.ok(statSync(join(path, 'deep', ...Array.from({ length: 300 }, () => 'd'))).isFile());
      assert.equal(statSync(join(path, 'many')).nlink, 2);
      assert.equal(statSync(path).nlink, 4);
    });
  });

  test('targets of links of every length, with and without attributes', async () => {
    using place = scratch();
    const lengths = [1, 383, 384, 447, 448, 449, 511, 512, 513, 3000, 4095];
    const link = (length: number, xattrs?: Described['xattrs']): Described => ({
      mode: 0o777,
      target: Buffer.alloc(length, 0x61),
      ...(xattrs === undefined ? {} : { xattrs }),
    });
    const root = tree({
      ...Object.fromEntries(lengths.map((length) => [`plain ${length}`, link(length)])),
      ...Object.fromEntries(
        lengths.map((length) => [`attributes ${length}`, link(length, { 'trusted.x': Buffer.alloc(40) })]),
      ),
    });
    const seen = await mounted(place.path, root, readTree);
    for (const length of lengths) {
      assert.equal(seen[`plain ${length}`]?.target?.length, length);
      assert.equal(seen[`attributes ${length}`]?.target?.length, length);
    }
  });

  test('files with holes, whose data begin and end anywhere', async () => {
    using place = scratch();
    const pieces = [
      { position: 10, length: 700, offset: 3 * BLOCK + 7 },
      { position: 51_200, length: 2 * BLOCK, offset: 10 * BLOCK },
      { position: 99_990, length: 10, offset: 20 * BLOCK + 3 },
    ];
    const expected = Buffer.alloc(100_000);
    for (const { position, length, offset } of pieces) TAR.copy(expected, position, offset, offset + length);
    const root = tree({
      odd: { size: expected.length, extents: pieces },
      aligned: { size: 1 << 20, extents: [{ position: 8192, length: 4096, offset: 8 * BLOCK }] },
      hole: { size: 5e12, extents: [] },
      'data at the end': { size: 1_048_576 + 100, extents: [{ position: 1_048_576, length: 100, offset: 5 * BLOCK }] },
    });
    await mounted(place.path, root, (path) => {
      assert.deepEqual(readFileSync(join(path, 'odd')), expected);
      const aligned = readFileSync(join(path, 'aligned'));
      assert.deepEqual(aligned.subarray(8192, 12_288), TAR.subarray(8 * BLOCK, 16 * BLOCK));
      assert.ok(
        aligned.subarray(0, 8192).every((byte) => byte === 0) && aligned.subarray(12_288).every((byte) => byte === 0),
      );
      assert.equal(statSync(join(path, 'hole')).size, 5e12);
      assert.deepEqual(
        readFileSync(join(path, 'data at the end')).subarray(1_048_576),
        TAR.subarray(5 * BLOCK, 5 * BLOCK + 100),
      );
    });
  });
});

test('an index file shows another tree over the content of a layer file', { skip }, async () => {
  using place = scratch();
  const layer = written(place.path, tree({ a: content(3, 700), b: content(9, 512) }));
  const fd = openSync(layer, constants.O_RDONLY);
  const index = join(place.path, 'index.erofs');
  const sparse = { size: 50_000, extents: [{ position: 100, length: 1000, offset: 7 * BLOCK + 5 }] };
  try {
    const other = tree({ folder: tree({ a: content(3, 700), whole: content(0, TAR.length), sparse }, { uid: 7 }) });
    const options = { layer: fd, uuid: Buffer.alloc(16, 9), sync: true, checkpoint: () => {} };
    writeIndexFile(index, describedTree(other).contents(), options);
  } finally {
    closeSync(fd);
  }
  assert.ok(statSync(index).size < 10_000, 'it has no content');
  const target = join(place.path, 'tree');
  mkdirSync(target);
  assert.equal(mountImage({ path: index, devices: [layer] }, target), 'file');
  try {
    assert.deepEqual(readFileSync(join(target, 'folder/a')), TAR.subarray(3 * BLOCK, 3 * BLOCK + 700));
    assert.deepEqual(readFileSync(join(target, 'folder/whole')), TAR);
    assert.deepEqual(
      readFileSync(join(target, 'folder/sparse')).subarray(100, 1100),
      TAR.subarray(7 * BLOCK + 5, 7 * BLOCK + 1005),
    );
    assert.equal(statSync(join(target, 'folder')).uid, 7);
  } finally {
    await unmountSnapshot(target);
  }
});

test('a layer file on tmpfs is mounted through a loop device', { skip }, async () => {
  using disk = tmpfs('size=4m');
  const target = join(disk.path, 'tree');
  mkdirSync(target);
  const path = written(disk.path, tree({ file: content(2, 600) }));
  assert.equal(mountImage({ path, devices: [] }, target), 'loop');
  try {
    assert.deepEqual(readFileSync(join(target, 'file')), TAR.subarray(2 * BLOCK, 2 * BLOCK + 600));
  } finally {
    await unmountSnapshot(target);
  }
});

test('the same layer gives the same bytes', () => {
  using place = scratch();
  const root = (reversed: boolean): Described => {
    const entries: [string, Described][] = ['b', 'a', 'c'].map((name) => [
      name,
      {
        ...EMPTY,
        xattrs: Object.fromEntries(
          (reversed ? ['y', 'x'] : ['x', 'y']).map((key) => [`user.${key}`, Buffer.from(key)]),
        ),
      },
    ]);
    return tree(Object.fromEntries(reversed ? entries.reverse() : entries));
  };
  const [one, other] = [false, true].map((reversed) =>
    readFileSync(written(place.path, root(reversed), `${reversed}`)),
  );
  assert.ok(one !== undefined && other !== undefined && one.equals(other));
});

test('a file of which the superblock is missing cannot be mounted', { skip }, () => {
  using place = scratch();
  const path = join(place.path, 'layer');
  {
    using file = new LayerFile(path);
    file.write(TAR);
  }
  mkdirSync(join(place.path, 'tree'));
  assert.throws(() => mountImage({ path, devices: [] }, join(place.path, 'tree')), UnpackError);
});

test('the reader sees what the kernel sees', { skip }, async () => {
  using place = scratch();
  const root = tree({
    ...Object.fromEntries(Array.from({ length: 500 }, (_, number) => [`file ${number}`, content(number % 40, number)])),
    link: { mode: 0o777, target: Buffer.alloc(3000, 0x62) },
    directory: tree({ x: EMPTY }, { xattrs: { 'user.a': Buffer.from('b'), 'trusted.c': Buffer.alloc(7000, 1) } }),
    device: { mode: 0o020600, device: { major: 5, minor: 700 } },
  });
  const path = written(place.path, root, 'for the reader');
  const fd = openSync(path, constants.O_RDONLY);
  try {
    const reader = new ImageReader(fd, path);
    const names = [...reader.entries(reader.root)].map(({ name }) => name.toString('latin1'));
    await mounted(place.path, root, (mountPoint) => {
      const seen = readTree(mountPoint);
      assert.deepEqual(
        names.sort(),
        Object.keys(seen)
          .filter((name) => !name.includes('/'))
          .sort(),
      );
      for (const name of names) {
        const nid = reader.find(reader.root, Buffer.from(name));
        assert.ok(nid !== undefined, name);
        const status = reader.status(nid);
        const { ino, size, mode, nlink } = lstatSync(join(mountPoint, name));
        if (name === 'link') assert.equal(reader.target(nid).length, 3000);
        else assert.deepEqual([nid, status.size, status.mode, status.links], [ino, size, mode, nlink]);
      }
      const directory = reader.find(reader.root, Buffer.from('directory')) ?? 0;
      assert.deepEqual([...reader.xattrs(directory).keys()].sort(), Object.keys(seen.directory?.xattrs ?? {}).sort());
      assert.equal(reader.parent(directory), reader.root);
      assert.equal(reader.find(reader.root, Buffer.from('missing')), undefined);
      const device = reader.find(reader.root, Buffer.from('device')) ?? 0;
      assert.deepEqual([reader.status(device).major, reader.status(device).minor], [5, 700]);
    });
  } finally {
    closeSync(fd);
  }
});
