import assert from 'node:assert/strict';
import { access, chown, lstat, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { runChild } from '../support/child.ts';
import '../support/needs-root.ts';
import { cString, makeDevice, mknodAt, S_IFCHR, setXattrFd } from '../../src/system/files.ts';
import { skipWithoutUserNamespaces } from '../support/present.ts';
import { openDirectory } from './open-directory.ts';
import { ownStoreSuite } from './own-suite.ts';
import { refused, type TemporaryStore, withStore } from './temporary-store.ts';

ownStoreSuite('overlay');

const behaviour = (sentence: string, body: (context: TemporaryStore) => Promise<void>) =>
  test(sentence, () => withStore('overlay', body));

describe('overlay store: on disk', () => {
  behaviour('an active snapshot has fs and work, a view has fs, a committed one has only fs left', async (context) => {
    const { store, layer, root } = context;
    await layer('base', '');
    await store.prepare('key', 'base');
    await store.view('look', 'base');
    const inside = async (id: number) => (await readdir(join(root, 'snapshots', String(id)))).sort();
    assert.deepEqual(await inside(1), ['committed.json', 'fs', 'store']);
    assert.deepEqual(await inside(2), ['active.json', 'fs', 'store', 'work']);
    assert.deepEqual(await inside(3), ['fs', 'store', 'view.json']);
  });

  behaviour('other users cannot read the store', async ({ root }) => {
    for (const path of [root, join(root, 'snapshots')]) assert.equal((await stat(path)).mode & 0o777, 0o700);
  });

  behaviour('a cleanup removes the work directory that a crash left after a commit', async (context) => {
    const { store, layer, root } = context;
    await layer('base', '');
    const left = join(root, 'snapshots/1/work/work');
    await mkdir(left, { recursive: true });
    await store.cleanup();
    await assert.rejects(access(join(root, 'snapshots/1/work')), { code: 'ENOENT' });
  });
});

describe('overlay store: mounts as mount(8) takes them', () => {
  behaviour('without a parent: a bind, writable or read-only', async ({ store, root }) => {
    const bind = (id: number, mode: string) => [
      { type: 'bind', source: join(root, `snapshots/${id}/fs`), options: [mode, 'rbind'] },
    ];
    assert.deepEqual(await store.prepare('a', ''), bind(1, 'rw'));
    assert.deepEqual(await store.view('b', ''), bind(2, 'ro'));
  });

  behaviour("a view of one parent: a read-only bind of the parent's tree", async ({ store, layer, root }) => {
    await layer('base', '');
    const options = ['ro', 'rbind'];
    assert.deepEqual(await store.view('look', 'base'), [
      { type: 'bind', source: join(root, 'snapshots/1/fs'), options },
    ]);
  });

  behaviour('otherwise an overlay, with the direct parent first', async ({ store, layer, root }) => {
    await layer('base', '');
    await layer('top', 'base');
    const at = (path: string) => join(root, 'snapshots', path);
    const lower = `lowerdir=${at('2/fs')}:${at('1/fs')}`;
    const index = 'index=off'; // this kernel has it, or the tests of mounts would not run
    const active = [`workdir=${at('3/work')}`, `upperdir=${at('3/fs')}`, lower, index];
    assert.deepEqual(await store.prepare('a', 'top'), [{ type: 'overlay', source: 'overlay', options: active }]);
    assert.deepEqual(await store.view('b', 'top'), [{ type: 'overlay', source: 'overlay', options: [lower, index] }]);
  });

  behaviour('128 layers mount, and show the merged tree', async ({ store, layer, root, mounted }) => {
    let parent = '';
    for (let index = 1; index <= 128; index += 1) {
      await store.prepare(`key-${index}`, parent);
      const tree = join(root, `snapshots/${index}/fs`);
      await writeFile(join(tree, 'newest'), `${index}`);
      await mkdir(join(tree, 'all'));
      await writeFile(join(tree, `all/file-${index}`), 'same');
      if (index > 1) whiteOut(join(tree, 'all'), `file-${index - 1}`);
      parent = `layer-${index}`;
      await store.commit(parent, `key-${index}`);
    }
    const check = async (directory: string) => {
      assert.equal(await readFile(join(directory, 'newest'), 'utf8'), '128');
      assert.deepEqual(await readdir(join(directory, 'all')), ['file-128']);
    };
    await mounted(await store.view('look', parent), check);
    await mounted(await store.prepare('write', parent), async (directory) => {
      await check(directory);
      await writeFile(join(directory, 'newest'), '129');
    });
    assert.equal(await readFile(join(root, 'snapshots/130/fs/newest'), 'utf8'), '129');
    await layer('129', parent);
  });
});

describe('overlay store: in a user namespace', { skip: skipWithoutUserNamespaces() }, () => {
  behaviour('asks for userxattr, and its mounts work', async ({ beside }) => {
    const source = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url).href);
    const script = `
      const { openSnapshotter } = await import(${source('snapshots/open.ts')});
      const { mountSnapshot, unmountSnapshot } = await import(${source('system/mount.ts')});
      const [beside] = process.argv.slice(1);
      const store = await openSnapshotter({ root: beside + '/unprivileged', type: 'overlay', durable: false });
      await store.prepare('key', '');
      await store.commit('base', 'key');
      const mounts = await store.prepare('next', 'base');
      await mountSnapshot(mounts, beside);
      await unmountSnapshot(beside);
      await store.close();
      console.log(JSON.stringify(mounts));`;
    const command = [process.execPath, '--input-type=module', '--eval', script, beside];
    const { stdout, stderr } = runChild('unshare', ['--user', '--map-root-user', '--mount', ...command]);
    assert.match(stdout, /"userxattr"/, stderr);
  });
});

describe('overlay store: whiteouts and opaque directories', () => {
  behaviour('a whiteout hides a file, an opaque directory hides the content below', async (context) => {
    const { store, layer, root, mounted } = context;
    await layer('base', '', async (directory) => {
      await writeFile(join(directory, 'file'), '');
      await mkdir(join(directory, 'a/b'), { recursive: true });
    });
    await store.prepare('key', 'base');
    const tree = join(root, 'snapshots/2/fs');
    whiteOut(tree, 'file');
    await mkdir(join(tree, 'a'));
    using opaque = openDirectory(join(tree, 'a'));
    setXattrFd(opaque.fd, cString('trusted.overlay.opaque'), Buffer.from('y'));
    await writeFile(join(tree, 'a/new'), '');
    await store.commit('top', 'key');
    await mounted(await store.view('look', 'top'), async (directory) => {
      assert.deepEqual(await readdir(directory), ['a']);
      assert.deepEqual(await readdir(join(directory, 'a')), ['new']);
    });
  });

  behaviour(
    'what is removed through the mount stays removed in the next layer',
    async ({ store, layer, mounted, root }) => {
      await layer('base', '', (directory) => makeDirectories(join(directory, 'a/b')));
      await layer('top', 'base', (directory) => rm(join(directory, 'a'), { recursive: true }));
      const left = await lstat(join(root, 'snapshots/2/fs/a'));
      assert.ok(left.isCharacterDevice() && left.rdev === 0);
      await mounted(await store.view('look', 'top'), async (directory) =>
        assert.deepEqual(await readdir(directory), []),
      );
    },
  );
});

describe('overlay store: a parent at the commit', () => {
  behaviour('can be given to a snapshot without a parent', async ({ store, layer, mounted }) => {
    assert.equal(store.rebase, true);
    await mounted(await store.prepare('upper', ''), (directory) => writeFile(join(directory, 'upper'), ''));
    await layer('base', '', (directory) => writeFile(join(directory, 'lower'), ''));
    await store.commit('top', 'upper', { parent: 'base' });
    assert.equal((await store.stat('top')).parent, 'base');
    await mounted(await store.view('look', 'top'), async (directory) => {
      assert.deepEqual((await readdir(directory)).sort(), ['lower', 'upper']);
    });
    await refused(store.remove('base'), 'FailedPrecondition');
  });

  behaviour("gives the root the owner of the parent's root", async ({ store, layer, root }) => {
    await store.prepare('upper', '');
    await layer('base', '', (directory) => chown(directory, 1234, 5678));
    await store.commit('top', 'upper', { parent: 'base' });
    const { uid, gid } = await stat(join(root, 'snapshots/1/fs'));
    assert.deepEqual([uid, gid], [1234, 5678]);
  });

  behaviour('must exist and be committed', async ({ store }) => {
    await store.prepare('upper', '');
    await store.prepare('other', '');
    await refused(store.commit('top', 'upper', { parent: 'nothing' }), 'NotFound');
    await refused(store.commit('top', 'upper', { parent: 'other' }), 'InvalidArgument');
    await refused(store.commit('top', 'upper', { parent: 'upper' }), 'InvalidArgument');
    assert.equal((await store.stat('upper')).kind, 'active');
  });
});

function whiteOut(directory: string, name: string): void {
  using opened = openDirectory(directory);
  mknodAt(opened.fd, cString(name), S_IFCHR, makeDevice(0, 0));
}

async function makeDirectories(path: string): Promise<void> {
  await mkdir(path, { recursive: true });
}
