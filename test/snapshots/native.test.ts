import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { chmod, chown, link, lutimes, mkdir, open, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startChild } from '../support/child.ts';
import '../support/needs-root.ts';
import { toUnpackError } from '../../src/errors.ts';
import {
  AT_FDCWD,
  cString,
  makeDevice,
  mknodAt,
  S_IFBLK,
  S_IFCHR,
  S_IFIFO,
  setXattrFd,
  utimensAt,
} from '../../src/system/files.ts';
import { listTree } from './list-tree.ts';
import { openDirectory } from './open-directory.ts';
import { snapshotterSuite } from './suite.ts';
import { refused, type TemporaryStore, withStore } from './temporary-store.ts';

snapshotterSuite('native');

const behaviour = (sentence: string, body: (context: TemporaryStore) => Promise<void>) =>
  test(sentence, () => withStore('native', body));

describe('native store', () => {
  behaviour('mounts are one bind, of its own tree or of the one it looks at', async ({ store, layer, root }) => {
    await layer('base', '');
    const bind = (id: number, mode: string) => [
      { type: 'bind', source: join(root, `snapshots/${id}/fs`), options: [mode, 'rbind'] },
    ];
    assert.deepEqual(await store.prepare('a', 'base'), bind(2, 'rw'));
    assert.deepEqual(await store.view('b', 'base'), bind(1, 'ro'));
    assert.deepEqual(await store.view('c', ''), bind(4, 'ro'));
  });

  behaviour('a parent at the commit is InvalidArgument: nothing can be removed from it any more', async (context) => {
    const { store, layer } = context;
    assert.equal(store.rebase, false);
    await layer('base', '');
    await store.prepare('key', '');
    await refused(store.commit('name', 'key', { parent: 'base' }), 'InvalidArgument');
  });

  behaviour('the copy of the parent is exact', async ({ store, layer, root }) => {
    await layer('base', '', makeEverything);
    await store.prepare('key', 'base');
    const [original, copy] = [listTree(join(root, 'snapshots/1/fs')), listTree(join(root, 'snapshots/2/fs'))];
    assert.ok(original.length > 10);
    assert.deepEqual(copy, original);
  });

  behaviour('holes stay holes', async ({ store, layer }) => {
    await layer('base', '', async (directory) => {
      const file = await open(join(directory, 'sparse'), 'w');
      await file.write('end', 1 << 30);
      await file.close();
    });
    await store.prepare('key', 'base');
    assert.ok((await store.usage('key')).bytes < 1 << 20);
  });

  behaviour('a copy that is under way when the store closes is ended, and nothing is left of it', async (context) => {
    const { store, layer, root } = context;
    await layer('base', '', (directory) => makeFiles(directory, 3000));
    const preparing = store.prepare('key', 'base');
    const failed = assert.rejects(preparing, (error) => toUnpackError(error).code === 'SHUTTING_DOWN');
    await copying(root);
    await store.close();
    await failed;
    assert.deepEqual(await readdir(join(root, 'snapshots')), ['1']);
  });

  behaviour('a parent that is removed while it is copied is NotFound', async ({ store, layer, root }) => {
    await layer('base', '', (directory) => makeFiles(directory, 3000));
    const preparing = refused(store.prepare('key', 'base'), 'NotFound');
    await copying(root);
    await store.remove('base');
    await preparing;
    await store.cleanup();
    assert.deepEqual(await readdir(join(root, 'snapshots')), []);
  });

  behaviour('a copy that is under way is not taken for a stray', async ({ store, layer, root, reopen, mounted }) => {
    await layer('base', '', (directory) => makeFiles(directory, 2000));
    const other = await reopen();
    const preparing = store.prepare('key', 'base');
    await copying(root);
    assert.equal(await other.cleanup(), 0);
    await mounted(await preparing, async (directory) => assert.equal((await readdir(directory)).length, 2000));
  });
  behaviour('a copier that outlives its killed process keeps its directory until it ends', async (context) => {
    const { store, layer, root } = context;
    await layer('base', '', (directory) => makeFiles(directory, 3000));
    const script = join(import.meta.dirname, 'prepare-once.ts');
    await using child = startChild(process.execPath, [script, root, 'key', 'base'], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    await copying(root);
    child.kill('SIGKILL');
    await once(child, 'exit');
    const deadline = performance.now() + 10_000;
    while ((await readdir(join(root, 'snapshots'))).length > 1) {
      assert.ok(performance.now() < deadline, 'the copier has not ended');
      await store.cleanup();
      await sleep(10);
    }
    await refused(store.stat('key'), 'NotFound');
  });
});

/** Waits until a copy is under way. It looks no further than it must: in memory a copy takes milliseconds. */
async function copying(root: string): Promise<void> {
  const snapshots = join(root, 'snapshots');
  const deadline = performance.now() + 10_000;
  for (;;) {
    const unfinished = readdirSync(snapshots).filter((name) => name.startsWith('new-'));
    const trees = unfinished.map((name) => join(snapshots, name, 'fs')).filter((tree) => existsSync(tree));
    if (trees.some((tree) => readdirSync(tree).length > 0)) return;
    assert.ok(performance.now() < deadline, 'nothing is copied');
    await sleep(1);
  }
}

function makeFiles(directory: string, count: number): void {
  for (let index = 0; index < count; index += 1) writeFileSync(join(directory, `${index}`), 'text');
}

/** One of every kind of file and attribute. */
async function makeEverything(directory: string): Promise<void> {
  const at = (name: string) => join(directory, name);
  await mkdir(at('a/b'), { recursive: true });
  await writeFile(at('file'), 'text');
  await link(at('file'), at('a/b/again'));
  await writeFile(at('program'), 'text');
  await chown(at('program'), 1000, 2000);
  await chmod(at('program'), 0o6755);
  await chmod(at('a'), 0o1777);
  await symlink('../../nowhere', at('a/link'));
  await writeFile(Buffer.concat([Buffer.from(`${directory}/`), Buffer.from([0x66, 0xff, 0xfe])]), 'not UTF-8');
  using root = openDirectory(directory);
  using inner = openDirectory(at('a'));
  mknodAt(root.fd, cString('fifo'), S_IFIFO | 0o640, 0);
  mknodAt(root.fd, cString('character'), S_IFCHR | 0o600, makeDevice(1, 3));
  mknodAt(root.fd, cString('block'), S_IFBLK | 0o600, makeDevice(259, 70_000));
  const file = await open(at('program'), 'r');
  setXattrFd(file.fd, cString('user.binary'), Buffer.from([0, 1, 255, 10]));
  // cap_net_bind_service, as setcap writes it
  setXattrFd(file.fd, cString('security.capability'), Buffer.from('0100000200040000000000000000000000000000', 'hex'));
  await file.close();
  setXattrFd(inner.fd, cString('trusted.any'), Buffer.from('1'));
  execFileSync('touch', ['-h', '-d', '2001-02-03 04:05:06.123456789', at('a/link')]);
  await lutimes(at('file'), 1, 1);
  for (const name of ['program', 'fifo', 'a/b', 'a']) {
    const time = { seconds: 981_173_106, nanoseconds: 123_456_789 };
    utimensAt(AT_FDCWD, cString(at(name)), time, time);
  }
}
