import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { access, mkdir, mkdtemp, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { UnpackError } from '../../src/errors.ts';
import { close, cString, O, openAt } from '../../src/system/files.ts';
import { emptyTree, removeDirectoryAt, removeTree, removeTreeSync } from '../../src/system/remove-tree.ts';
import { startChild } from '../support/child.ts';
import { inDirectory, makeDeep } from '../support/deep-tree.ts';
import { ext4, tmpfs, unavailable } from '../support/file-system.ts';
import { Sandbox } from '../support/sandbox.ts';

/** The three functions that remove a directory. */
const REMOVERS = {
  'on threads': removeTree,
  'in one call': async (path: string) => removeTreeSync(path),
  'in an open directory': async (path: string) => {
    const parent = openAt(-100, cString(join(path, '..')), O.RDONLY | O.DIRECTORY);
    try {
      removeDirectoryAt(parent, cString(path.split('/').at(-1) ?? ''), () => {});
    } finally {
      close(parent);
    }
  },
} as const;

for (const [how, remove] of Object.entries(REMOVERS)) {
  describe(`removing a tree, ${how}`, () => {
    test('removes names that are not UTF-8, and paths longer than a system call takes', () =>
      inDirectory(async (directory) => {
        const root = join(directory, 'root');
        makeDeep(root, 60, 'd'.repeat(200));
        await writeFile(Buffer.concat([Buffer.from(`${root}/`), Buffer.from([0xff, 0xfe])]), '');
        await remove(root);
        assert.deepEqual(await readdir(directory), []);
      }));

    test('removes five thousand nested directories with few descriptors', () =>
      inDirectory(async (directory) => {
        const root = join(directory, 'root');
        makeDeep(root, 5000, 'd');
        let most = 0;
        const counted = setInterval(() => {
          most = Math.max(most, readdirSync('/proc/self/fd').length);
        });
        const before = readdirSync('/proc/self/fd').length;
        await remove(root).finally(() => clearInterval(counted));
        assert.deepEqual(await readdir(directory), []);
        assert.ok(most < before + 64, `${most} descriptors were open, ${before} before`);
        assert.ok(readdirSync('/proc/self/fd').length <= before, 'descriptors were left open');
      }));

    test('removes directories whose mode shuts out their owner', () =>
      inDirectory(async (directory) => {
        const root = join(directory, 'root');
        await mkdir(join(root, 'a/b'), { recursive: true });
        await writeFile(join(root, 'a/b/f'), '');
        for (const [path, mode] of [
          ['a/b', 0],
          ['a', 0o500],
        ] as const)
          chmodSync(join(root, path), mode);
        await remove(root);
        assert.deepEqual(await readdir(directory), []);
      }));

    test('follows no symbolic link, and keeps other hard links of a file', () =>
      inDirectory(async (directory) => {
        const root = join(directory, 'root');
        await mkdir(root);
        await mkdir(join(directory, 'kept/inner'), { recursive: true });
        writeFileSync(join(directory, 'kept/file'), 'kept');
        linkSync(join(directory, 'kept/file'), join(root, 'hard'));
        symlinkSync('../kept', join(root, 'relative'));
        symlinkSync(join(directory, 'kept'), join(root, 'absolute'));
        await remove(root);
        assert.deepEqual(await readdir(directory), ['kept']);
        assert.deepEqual(readdirSync(join(directory, 'kept')), ['file', 'inner']);
      }));

    test('does not enter mounts inside the tree', { skip: unavailable(() => tmpfs('size=1m')) }, () =>
      inDirectory(async (directory) => {
        using disk = tmpfs('size=1m');
        writeFileSync(join(disk.path, 'canary'), 'alive');
        const at = join(directory, 'root/mnt');
        await mkdir(at, { recursive: true });
        mkdirSync(join(directory, 'kept'));
        writeFileSync(join(directory, 'kept/canary'), 'alive');
        for (const source of [disk.path, join(directory, 'kept')]) {
          execFileSync('mount', ['--bind', source, at]);
          try {
            await assert.rejects(async () => remove(join(directory, 'root')), /EXDEV|EBUSY|mounted/);
            assert.equal(readFileSync(join(source, 'canary'), 'utf8'), 'alive');
          } finally {
            execFileSync('umount', [at]);
          }
        }
        await remove(join(directory, 'root'));
        assert.deepEqual(await readdir(directory), ['kept']);
      }),
    );

    test('removes nothing outside while another process replaces a directory by a link', async () => {
      using box = new Sandbox();
      const [root, building] = box.roots;
      const tree = join(root, 'tree');
      const swapper = new URL('../hostile/swapper.ts', import.meta.url).pathname;
      const names = [join(tree, 'd'), join(tree, 'l')];
      await using child = startChild(process.execPath, [swapper, ...names], { stdio: ['ignore', 'pipe', 'inherit'] });
      assert.ok(child.stdout !== null);
      await once(child.stdout, 'data');
      child.stdout.resume();
      for (let round = 0; round < 300; round += 1) {
        const next = join(building, `${round}`);
        for (const name of ['d/sub', 'd/canary']) mkdirSync(join(next, name), { recursive: true });
        for (let index = 0; index < 50; index += 1) writeFileSync(join(next, `d/f${index}`), '');
        for (const name of ['d/sub/canary', 'd/sub/inner']) writeFileSync(join(next, name), '');
        symlinkSync(box.outside, join(next, 'l'));
        renameSync(next, tree);
        for (let attempt = 0; existsSync(tree); attempt += 1) {
          assert.ok(attempt < 100, 'it is not to be removed');
          // an exchange at every step may be too much for one attempt
          await remove(tree).catch((error) => assert.match(String(error), /ENOTEMPTY|ENOTDIR|EISDIR|still changes/));
          box.check();
        }
      }
    });
  });
}

describe('removing a tree', () => {
  test('can be done by several callers at once', () =>
    inDirectory(async (directory) => {
      const root = join(directory, 'root');
      makeDeep(root, 200, 'd'.repeat(200));
      for (let index = 0; index < 500; index += 1) await mkdir(join(root, `${index}/a`), { recursive: true });
      await Promise.all([removeTree(root), removeTree(root), removeTree(root)]);
      assert.deepEqual(await readdir(directory), []);
    }));

  test('removes files that are added during the removal', () =>
    inDirectory(async (directory) => {
      const root = join(directory, 'root');
      await mkdir(join(root, 'a/b/c'), { recursive: true });
      for (let index = 0; index < 2000; index += 1) writeFileSync(join(root, `a/b/c/${index}`), '');
      const removal = removeTree(root);
      for (let index = 0; index < 50; index += 1) {
        await new Promise(setImmediate);
        if (existsSync(join(root, 'a/b/c'))) writeFileSync(join(root, `a/b/c/late-${index}`), '');
      }
      await removal;
      assert.deepEqual(await readdir(directory), []);
    }));

  test('does nothing if the tree or its parent directory is missing', () =>
    inDirectory(async (directory) => {
      await removeTree(join(directory, 'nothing'));
      await removeTree(join(directory, 'nothing/at/all'));
      removeTreeSync(join(directory, 'nothing/at/all'));
    }));

  test('removes a file or a link at the path, but not the target of the link', () =>
    inDirectory(async (directory) => {
      await mkdir(join(directory, 'kept'));
      symlinkSync('kept', join(directory, 'link'));
      writeFileSync(join(directory, 'file'), '');
      await removeTree(join(directory, 'link'));
      await removeTree(join(directory, 'file'));
      assert.deepEqual(await readdir(directory), ['kept']);
    }));

  test('emptyTree keeps the directory, and does not follow a link', () =>
    inDirectory(async (directory) => {
      const root = join(directory, 'root');
      makeDeep(root, 100, 'd');
      await emptyTree(root);
      assert.deepEqual(await readdir(root), []);
      writeFileSync(join(root, 'f'), '');
      symlinkSync('root', join(directory, 'link'));
      await emptyTree(join(directory, 'link'));
      assert.deepEqual(await readdir(root), ['f']);
    }));

  test('stops between two files if it is aborted', () =>
    inDirectory(async (directory) => {
      const root = await mkdtemp(join(directory, 'root'));
      for (let index = 0; index < 500; index += 1) writeFileSync(join(root, `${index}`), '');
      await assert.rejects(removeTree(root, AbortSignal.abort(new Error('enough'))), { message: 'enough' });
      await access(root);
    }));

  const disk = unavailable(() => ext4());
  test('an immutable file is named in the error, and all other files are removed', { skip: disk }, async () => {
    using disk = ext4();
    const root = join(disk.path, 'root');
    mkdirSync(join(root, 'a/fixed'), { recursive: true });
    mkdirSync(join(root, 'z'));
    for (const name of ['a/fixed/file', 'a/other', 'z/file']) writeFileSync(join(root, name), '');
    execFileSync('chattr', ['+i', join(root, 'a/fixed/file')]);
    try {
      await assert.rejects(removeTree(root), (error: unknown) => {
        assert.ok(error instanceof UnpackError);
        assert.equal(error.code, 'STORE_FAILED');
        assert.match(error.message, /root\/a\/fixed\/file can't be removed: .*immutable.*chattr/);
        return true;
      });
      assert.deepEqual([readdirSync(root), readdirSync(join(root, 'a'))], [['a'], ['fixed']]);
    } finally {
      execFileSync('chattr', ['-i', join(root, 'a/fixed/file')]);
    }
    await removeTree(root);
    assert.equal(existsSync(root), false);
  });
});
