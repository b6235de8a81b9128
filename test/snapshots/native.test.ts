import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, writeFileSync } from 'node:fs';
import { chmod, chown, link, lutimes, mkdir, open, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { startChild } from '../support/child.ts';
import { eventually } from '../support/eventually.ts';
import { scratch } from '../support/scratch.ts';
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
import { ownStoreSuite } from './own-suite.ts';
import { directoriesIn, refused, type TemporaryStore, withStore } from './temporary-store.ts';

ownStoreSuite('native');

const behaviour = (sentence: string, body: (context: TemporaryStore) => Promise<void>) =>
  test(sentence, () => withStore('native', body));

describe('native store', () => {
  behaviour(
    'the mount is a bind of the snapshot’s tree, or of the parent’s tree for a view',
    async ({ store, layer, root }) => {
      await layer('base', '');
      const bind = (id: number, mode: string) => [
        { type: 'bind', source: join(root, `snapshots/${id}/fs`), options: [mode, 'rbind'] },
      ];
      assert.deepEqual(await store.prepare('a', 'base'), bind(2, 'rw'));
      assert.deepEqual(await store.view('b', 'base'), bind(1, 'ro'));
      assert.deepEqual(await store.view('c', ''), bind(4, 'ro'));
    },
  );

  behaviour('a parent at the commit is InvalidArgument, because whiteouts need the parent’s files', async (context) => {
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

  behaviour('the size of a layer has that of its parent, whose files it copies', async ({ store }) => {
    await store.prepare('key', '');
    await store.commit('base', 'key', { usage: { bytes: 8192, inodes: 3 } });
    await store.prepare('key', 'base');
    await store.commit('top', 'key', { usage: { bytes: -4096, inodes: 2 } });
    assert.deepEqual((await store.stat('top')).size, { bytes: 4096, inodes: 5 });
  });

  behaviour('the size on a parent without a size is unknown', async ({ store, layer }) => {
    await layer('base', '');
    await store.prepare('key', 'base');
    await store.commit('top', 'key', { usage: { bytes: 4096, inodes: 2 } });
    assert.equal((await store.stat('top')).size, undefined);
  });

  behaviour('closing the store ends a running copy and deletes it', async (context) => {
    const { store, layer, root } = context;
    await layer('base', '', (directory) => makeFiles(directory, 20));
    using copier = new HeldCopier();
    const preparing = store.prepare('key', 'base');
    const failed = assert.rejects(preparing, (error) => toUnpackError(error).code === 'SHUTTING_DOWN');
    await copier.begins();
    await store.close();
    await failed;
    assert.deepEqual(await directoriesIn(root), ['1']);
  });

  behaviour('removing the parent during the copy gives NotFound', async ({ store, layer, root }) => {
    await layer('base', '', (directory) => makeFiles(directory, 20));
    using copier = new HeldCopier();
    const preparing = refused(store.prepare('key', 'base'), 'NotFound');
    await copier.begins();
    await store.remove('base');
    copier.go();
    await preparing;
    await store.cleanup();
    assert.deepEqual(await directoriesIn(root), []);
  });

  behaviour('a cleanup does not remove a running copy', async ({ store, layer, reopen, mounted }) => {
    await layer('base', '', (directory) => makeFiles(directory, 20));
    const other = await reopen();
    using copier = new HeldCopier();
    const preparing = store.prepare('key', 'base');
    await copier.begins();
    assert.equal(await other.cleanup(), 0);
    copier.go();
    await mounted(await preparing, async (directory) => assert.equal((await readdir(directory)).length, 20));
  });
  behaviour('a cp whose parent process was killed keeps its directory until it ends', async (context) => {
    const { store, layer, root } = context;
    await layer('base', '', (directory) => makeFiles(directory, 20));
    using copier = new HeldCopier();
    const script = join(import.meta.dirname, 'prepare-once.ts');
    await using child = startChild(process.execPath, [script, root, 'key', 'base'], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    await copier.begins();
    child.kill('SIGKILL');
    await once(child, 'exit');
    await store.cleanup();
    assert.equal((await directoriesIn(root)).length, 2, 'the copier still writes there');
    copier.go();
    await eventually('the copier has ended', async () => {
      await store.cleanup();
      return (await directoriesIn(root)).length === 1;
    });
    await refused(store.stat('key'), 'NotFound');
  });
});

/** A cp for this process and its children that reports its start and then waits for permission. */
class HeldCopier implements Disposable {
  private readonly place = scratch();
  private readonly path = process.env.PATH;
  private readonly fifo = join(this.place.path, 'go');
  private readonly begun = join(this.place.path, 'begun');
  private fd: number | undefined;

  constructor() {
    const real = execFileSync('sh', ['-c', 'command -v cp'], { encoding: 'utf8' }).trim();
    execFileSync('mkfifo', [this.fifo]);
    // a shell that opens a FIFO waits in that call: there is no other process to hold what it has inherited
    const script = `#!/bin/sh
      case "$*" in *--version*) exec ${real} "$@" ;; esac
      : >${this.begun}
      : <${this.fifo}
      exec ${real} "$@"\n`;
    writeFileSync(join(this.place.path, 'cp'), script, { mode: 0o755 });
    process.env.PATH = `${this.place.path}:${this.path}`;
  }

  async begins(): Promise<void> {
    await eventually('a copy is under way', () => existsSync(this.begun));
  }

  go(): void {
    this.fd ??= openSync(this.fifo, 'r+'); // with O_RDWR it does not wait for a reader
  }

  [Symbol.dispose](): void {
    process.env.PATH = this.path;
    this.go();
    if (this.fd !== undefined) closeSync(this.fd);
    this.place[Symbol.dispose]();
  }
}

function makeFiles(directory: string, count: number): void {
  for (let index = 0; index < count; index += 1) writeFileSync(join(directory, `${index}`), 'text');
}

/** One file of each type, and one attribute of each kind. */
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
