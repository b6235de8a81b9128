import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { toUnpackError } from '../../src/errors.ts';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';
import type { MountRequest } from '../../src/system/mount-fsmount.ts';
import { mountByDescriptor } from '../../src/system/mount-fsmount.ts';
import { mountByString } from '../../src/system/mount-syscall.ts';

/** Both ways to mount are tested, whichever this kernel would use. */
const WAYS = new Map<string, (mount: MountRequest, target: string) => unknown>([['mount(2)', mountByString]]);
const [major = 0, minor = 0] = release().split('.').map(Number);
const hasLowerdirPlus = major > 6 || (major === 6 && minor >= 5);
if (hasLowerdirPlus) WAYS.set('fsopen(2)', mountByDescriptor);

for (const [way, mount] of WAYS) {
  describe(`through ${way}`, () => {
    test('a bind shows the directory, writable', () =>
      inDirectory(async ({ source, target }) => {
        await writeFile(join(source, 'file'), 'text');
        mount({ type: 'bind', source, options: ['rw', 'rbind'] }, target);
        assert.equal(await readFile(join(target, 'file'), 'utf8'), 'text');
        await writeFile(join(target, 'more'), '');
        assert.deepEqual((await readdir(source)).sort(), ['file', 'more']);
      }));

    test('a read-only bind cannot be written, its source can', () =>
      inDirectory(async ({ source, target }) => {
        mount({ type: 'bind', source, options: ['ro', 'rbind'] }, target);
        await assert.rejects(writeFile(join(target, 'file'), ''), { code: 'EROFS' });
        await writeFile(join(source, 'file'), '');
      }));

    test('128 layers merge, the first on top', () =>
      inDirectory(async ({ root, target }) => {
        mount(overlay(makeLayers(root, 128)), target);
        assert.equal(await readFile(join(target, 'same'), 'utf8'), '0');
        assert.equal((await readdir(target)).length, 129);
        await assert.rejects(writeFile(join(target, 'new'), ''), { code: 'EROFS' });
      }));

    test('128 layers merge below a writable one', () =>
      inDirectory(async ({ root, target }) => {
        const layers = makeLayers(root, 128);
        for (const name of ['upper', 'work']) await mkdir(join(root, name));
        mount(overlay(layers, `workdir=${join(root, 'work')}`, `upperdir=${join(root, 'upper')}`), target);
        await writeFile(join(target, 'same'), 'changed');
        assert.equal(await readFile(join(root, 'upper/same'), 'utf8'), 'changed');
      }));

    test('an overlay can be read-only', () =>
      inDirectory(async ({ root, target }) => {
        for (const name of ['upper', 'work']) await mkdir(join(root, name));
        const writable = [`workdir=${join(root, 'work')}`, `upperdir=${join(root, 'upper')}`];
        mount(overlay(makeLayers(root, 2), ...writable, 'ro'), target);
        await assert.rejects(writeFile(join(target, 'file'), ''), { code: 'EROFS' });
      }));
  });
}

describe('mountSnapshot', () => {
  test('merges 500 layers, the maximum of overlayfs', { skip: !hasLowerdirPlus }, () =>
    inDirectory(async ({ root, target }) => {
      await mountSnapshot([overlay(makeLayers(root, 500))], target);
      assert.equal((await readdir(target)).length, 501);
    }),
  );

  test('refuses 501 layers with a clear message', () =>
    inDirectory(async ({ root, target }) => {
      await fails(mountSnapshot([overlay(makeLayers(root, 501))], target), /at most 500 layers and there are 501/);
    }));

  test('mounts layers with paths longer than a mount option may be', () =>
    inDirectory(async ({ root, target }) => {
      const deep = join(root, 'd'.repeat(150), 'e'.repeat(150));
      for (const name of ['upper', 'work']) await mkdir(join(deep, name), { recursive: true });
      const writable = [`workdir=${join(deep, 'work')}`, `upperdir=${join(deep, 'upper')}`];
      await mountSnapshot([overlay(makeLayers(deep, 3), ...writable)], target);
      assert.equal((await readdir(target)).length, 4);
    }));

  test('leaves nothing mounted if one of several mounts fails', () =>
    inDirectory(async ({ source, target }) => {
      const good: MountRequest = { type: 'bind', source, options: ['rbind', 'rw'] };
      await fails(mountSnapshot([good, { ...good, source: join(source, 'nothing') }], target), /ENOENT/);
      await writeFile(join(target, 'file'), '');
      assert.deepEqual(await readdir(source), []);
    }));

  test('reports the message of the kernel and the remedy', () =>
    inDirectory(async ({ root, target }) => {
      await fails(mountSnapshot([overlay(makeLayers(root, 2), 'nonsense=1')], target), /nonsense/);
      await fails(mountSnapshot([overlay([join(root, 'nothing')])], target), /is not there/);
    }));
});

describe('unmountSnapshot', () => {
  test('does nothing for a directory without a mount, or a missing one', () =>
    inDirectory(async ({ root, target }) => {
      await unmountSnapshot(target);
      await unmountSnapshot(join(root, 'nothing'));
    }));

  test('removes all mounts at one path', () =>
    inDirectory(async ({ source, target }) => {
      const mount: MountRequest = { type: 'bind', source, options: ['rbind', 'rw'] };
      await mountSnapshot([mount, mount], target);
      await writeFile(join(source, 'file'), '');
      await unmountSnapshot(target);
      assert.deepEqual(await readdir(target), []);
    }));

  test('waits while a file is open', () =>
    inDirectory(async ({ source, target }) => {
      await mountSnapshot([{ type: 'bind', source, options: ['rbind', 'rw'] }], target);
      const file = await open(join(target, 'file'), 'w');
      const unmounting = unmountSnapshot(target);
      // it has found the file open by now: its first attempt comes before it waits
      await file.close();
      await unmounting;
    }));

  test('fails after 2 s if the mount is still in use', () =>
    inDirectory(async ({ source, target }) => {
      await mountSnapshot([{ type: 'bind', source, options: ['rbind', 'rw'] }], target);
      const file = await open(join(target, 'file'), 'w');
      try {
        await fails(unmountSnapshot(target), /a process still uses it/);
      } finally {
        await file.close();
      }
    }));
});

function overlay(layers: readonly string[], ...more: string[]): MountRequest {
  return { type: 'overlay', source: 'overlay', options: [...more, `lowerdir=${layers.join(':')}`, 'index=off'] };
}

/** Directories with one file of their own, and one file that all have. */
function makeLayers(root: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => {
    const layer = join(root, 'layers', String(index), 'fs');
    mkdirSync(layer, { recursive: true });
    writeFileSync(join(layer, 'same'), String(index));
    writeFileSync(join(layer, `file-${index}`), '');
    return layer;
  });
}

async function fails(call: Promise<unknown>, sentence: RegExp): Promise<void> {
  await assert.rejects(call, (error) => {
    const { code, message } = toUnpackError(error);
    assert.match(message, sentence);
    return code === 'STORE_FAILED';
  });
}

interface Places {
  readonly root: string;
  readonly source: string;
  readonly target: string;
}

async function inDirectory(body: (places: Places) => Promise<void>): Promise<void> {
  const root = await mkdtemp(join(tmpdir(), 'unpackd-mount-'));
  const places = { root, source: join(root, 'source'), target: join(root, 'target') };
  try {
    await mkdir(places.source);
    await mkdir(places.target);
    await body(places);
  } finally {
    await unmountSnapshot(places.target);
    await rm(root, { recursive: true, force: true });
  }
}
