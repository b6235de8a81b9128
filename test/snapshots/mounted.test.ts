import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readlinkSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { isOfStore, storeMounts } from '../../src/snapshots/mounted.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';
import { mountTable } from '../../src/system/mount-table.ts';
import { runChild } from '../support/child.ts';
import { eventually } from '../support/eventually.ts';
import { inNamespace } from '../support/mount-namespace.ts';
import { skipWithout } from '../support/present.ts';
import { type TemporaryStore, withStore } from './temporary-store.ts';

/** A store with the layers 1 and 2 and an empty folder `at`, and the numbers of its snapshots that are mounted. */
const behaviour = (
  sentence: string,
  body: (
    context: TemporaryStore & {
      readonly trees: string;
      readonly at: string;
      used(): Promise<number[]>;
    },
  ) => Promise<void>,
) =>
  test(sentence, () =>
    withStore('overlay', async (context) => {
      await context.layer('one', '', (directory) => mkdirSync(join(directory, 'inner')));
      await context.layer('two', 'one');
      const at = join(context.beside, 'at');
      mkdirSync(at);
      const used = async () => [...(await storeMounts(context.root)).places.keys()].sort();
      await body({ ...context, at, trees: join(context.root, 'snapshots'), used });
    }),
  );

describe('the mounts of a store', () => {
  behaviour('are none if nothing is mounted', async ({ used }) => {
    assert.deepEqual(await used(), []);
  });

  behaviour('are those of this process: overlays and bind mounts', async ({ store, used, at }) => {
    for (const [name, numbers] of [
      ['two', [1, 2]],
      ['one', [1]],
    ] as const) {
      const mounts = await store.view(`look ${name}`, name);
      await mountSnapshot(mounts, at);
      assert.deepEqual(await used(), numbers);
      await unmountSnapshot(at);
      assert.deepEqual(await used(), []);
    }
  });

  behaviour('are those of other mount namespaces, with a process that sees them', async ({ root, at, trees }) => {
    await using other = await inNamespace(`mount -t overlay -o lowerdir=${trees}/2/fs:${trees}/1/fs overlay ${at}`);
    const { places } = await storeMounts(root);
    assert.deepEqual([...places.keys()].sort(), [1, 2]);
    assert.deepEqual(places.get(1), { point: at, process: other.pid });
  });

  behaviour('are overlays with relative paths, as containerd makes them', async ({ at, trees, used }) => {
    await using _other = await inNamespace(`cd ${trees}; mount -t overlay -o lowerdir=2/fs:1/fs overlay ${at}`);
    assert.deepEqual(await used(), [1, 2]);
  });

  behaviour('are writable overlays, by their upper and lower layers', async ({ store, at, used }) => {
    const [mount] = await store.prepare('key', 'two');
    assert.ok(mount !== undefined);
    await using _other = await inNamespace(`mount -t overlay -o ${mount.options.join()} overlay ${at}`);
    assert.deepEqual(await used(), [1, 2, 3]);
  });

  behaviour('are bind mounts of a tree, of a part of it, and of a removed one', async ({ at, trees, used }) => {
    await using other = await inNamespace(`mount --bind ${trees}/1/fs/inner ${at}`);
    assert.deepEqual(await used(), [1]);
    renameSync(join(trees, '1'), join(trees, 'rm-1-0123abcd'));
    assert.deepEqual(await used(), [1]);
    await other[Symbol.asyncDispose]();
    await eventually('the end of a namespace', async () => (await used()).length === 0);
    renameSync(join(trees, 'rm-1-0123abcd'), join(trees, '1'));
  });

  behaviour('are overlays of a snapshot that was renamed after the mount', async ({ at, trees, used }) => {
    await using _other = await inNamespace(`mount -t overlay -o lowerdir=${trees}/2/fs:${trees}/1/fs overlay ${at}`);
    renameSync(join(trees, '2'), join(trees, 'rm-2-0123abcd'));
    assert.deepEqual(await used(), [1, 2]);
    renameSync(join(trees, 'rm-2-0123abcd'), join(trees, '2'));
  });

  behaviour('are overlays through another path to the store, also one that is gone', async (context) => {
    const { root, beside, at, trees, used } = context;
    const alias = join(beside, 'alias, with = and a space');
    mkdirSync(alias);
    const lower = (path: string) => `lowerdir=${path.replaceAll(',', '\\,')}/snapshots/2/fs:${trees}/1/fs`;
    const overlay = `mount -t overlay -o '${lower(alias)}' overlay ${at}`;
    for (const script of [
      `mount --bind ${root} '${alias}'; ${overlay}`,
      `mount --bind ${root} '${alias}'; ${overlay}; umount '${alias}'`,
    ]) {
      await using _other = await inNamespace(script);
      assert.deepEqual(await used(), [1, 2]);
    }
    const [link, tree] = [join(beside, 'link'), join(beside, 'tree')];
    symlinkSync(root, link);
    symlinkSync(join(trees, '1/fs'), tree);
    await using _other = await inNamespace(`mount -t overlay -o ${lower(link).split(':')[0]}:${tree} overlay ${at}`);
    assert.deepEqual(await used(), [1, 2]);
  });

  behaviour('are those of a single thread with a namespace of its own', async ({ trees, at, used }) => {
    if (skipWithout('python3') !== false) return;
    const script = `import ctypes, subprocess, sys, threading
def work():
    libc = ctypes.CDLL(None)
    assert libc.unshare(0x20000) == 0
    assert libc.mount(None, b"/", None, 0x44000, None) == 0
    assert libc.mount(b"${trees}/1/fs", b"${at}", None, 4096, None) == 0
    print("ready", flush=True)
    sys.stdin.read()
thread = threading.Thread(target=work); thread.start(); thread.join()`;
    await using _other = await inNamespace(`exec python3 -c '${script}'`, ['--ipc']);
    assert.deepEqual(await used(), [1]);
  });

  behaviour('are not those of another store with the same numbers', async ({ at, used, root }) => {
    await withStore('overlay', async (other) => {
      await other.layer('one', '');
      await other.layer('two', 'one');
      const trees = join(other.root, 'snapshots');
      await using _overlay = await inNamespace(
        `mount -t overlay -o lowerdir=${trees}/2/fs:${trees}/1/fs overlay ${at}`,
      );
      await using _bind = await inNamespace(`mount --bind ${trees}/1/fs ${at}`);
      assert.deepEqual(await used(), []);
      assert.deepEqual([...(await storeMounts(other.root)).places.keys()].sort(), [1, 2]);
      // where the other store lies at the path of this one, the text alone cannot tell which of them is mounted
      await using _same = await inNamespace(
        `mount --bind ${other.root} ${root}; mount -t overlay -o lowerdir=${root}/snapshots/2/fs:${root}/snapshots/1/fs overlay ${at}`,
      );
      assert.deepEqual(await used(), [1, 2]);
    });
  });

  test('are found in a store whose path has spaces and letters that are not ASCII', () =>
    withStore('overlay', async ({ beside }) => {
      const root = join(beside, 'a Büro\twith tabs');
      const store = await openSnapshotter({ root, type: 'overlay' });
      await store.prepare('key', '');
      const at = join(beside, 'at');
      mkdirSync(at);
      await using _other = await inNamespace(`mount --bind '${root}/snapshots/1/fs' ${at}`);
      assert.deepEqual([...(await storeMounts(root)).places.keys()], [1]);
      await store.close();
    }));
});

/** In a container other mounts are never seen. */
const inContainer = readlinkSync('/proc/self/ns/pid') !== 'pid:[4026531836]';

describe('whether all mounts are seen', { skip: inContainer && 'this is a container' }, () => {
  const program = (root: string) => {
    const module = join(import.meta.dirname, '../../src/snapshots/mounted.ts');
    return `const { storeMounts } = await import(${JSON.stringify(module)}); console.log((await storeMounts(${JSON.stringify(root)})).unseen ?? 'all');`;
  };
  const look = (root: string, ...before: string[]) => {
    const [first = process.execPath, ...others] = [...before, process.execPath];
    const { stdout, stderr } = runChild(first, [...others, '--input-type=module', '-e', program(root)]);
    return stdout + stderr;
  };

  behaviour('is yes in another mount namespace, and no in a PID namespace', async ({ root }) => {
    assert.equal((await storeMounts(root)).unseen, undefined);
    assert.equal(look(root, 'unshare', '--mount'), 'all\n');
    assert.match(
      look(root, 'unshare', '--pid', '--fork', '--mount-proc'),
      /^this process is in a PID namespace of its own/,
    );
    assert.match(look(root, 'unshare', '--pid', '--fork'), /^this process is in a PID namespace of its own/);
  });

  behaviour('is no if a namespace is kept by a mount only', async ({ root, beside }) => {
    const kept = join(beside, 'kept');
    execFileSync('mount', ['--bind', beside, beside]);
    try {
      execFileSync('mount', ['--make-private', beside]);
      writeFileSync(kept, '');
      keepNamespace(kept);
      assert.match((await storeMounts(root)).unseen ?? '', /^no process shows all of the mount namespace mnt:\[\d+\]/);
      execFileSync('umount', [kept]);
      assert.equal((await storeMounts(root)).unseen, undefined);
    } finally {
      execFileSync('umount', ['--lazy', beside]);
    }
  });

  behaviour('is no if the only process of a namespace is in a chroot', async ({ root, beside }) => {
    const inner = join(beside, 'chroot');
    const script = `mkdir ${inner}; mount --rbind / ${inner}; exec chroot ${inner} sh -c 'echo ready; cat >/dev/null'`;
    await using _other = await inNamespace(script);
    assert.match((await storeMounts(root)).unseen ?? '', /^no process shows all of the mount namespace/);
  });
});

describe('one mount', () => {
  behaviour('is of the store or not', async ({ store, root, at, beside }) => {
    const there = () => mountTable().find(({ point }) => point === at);
    await mountSnapshot(await store.view('look', 'two'), at);
    const mount = there();
    assert.ok(mount !== undefined);
    assert.equal(await isOfStore(root, mount), true);
    await unmountSnapshot(at);
    execFileSync('mount', ['--bind', beside, at]);
    const other = there();
    assert.ok(other !== undefined);
    assert.equal(await isOfStore(root, other), false);
    execFileSync('umount', [at]);
  });
});

/**
 * Makes a mount namespace that only the mount at `path` keeps. The kernel refuses to mount a namespace whose number is lower
 * than that of the caller's namespace. Since Linux 6.18 each processor gives numbers of its own, which grow on that processor
 * only. So one of the processors, the one on which the caller's namespace was made, has a higher number in any case.
 */
function keepNamespace(path: string): void {
  const failures: unknown[] = [];
  for (const processor of cpus().keys()) {
    try {
      execFileSync('taskset', ['--cpu-list', String(processor), 'unshare', `--mount=${path}`, 'true'], {
        stdio: 'pipe',
      });
      return;
    } catch (error) {
      failures.push(error);
    }
  }
  throw new AggregateError(failures, 'no processor makes a mount namespace that can be mounted');
}
