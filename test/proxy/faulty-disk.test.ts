import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { connectContainerd } from '../../src/grpc/client.ts';
import { type GrpcCode, GrpcError } from '../../src/grpc/errors.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { type ContainerdProgram, PROGRAMS, skipWithoutContainers } from '../containerd/daemon.ts';
import { appImage, dataOf, LIST_DATA } from '../containerd/images.ts';
import { eventually } from '../support/eventually.ts';
import { type Disk, ext4, readOnlySwitch, unavailable } from '../support/file-system.ts';
import { imageOf, layerOf } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { unpackAll } from '../support/store-trees.ts';
import { file, tar } from '../support/tar.ts';
import { ServedMachine, succeeded } from './served-machine.ts';

/** A served store whose disk is full, or read-only, while containers run. Nothing is restarted, and nothing is lost. */

const MIB = 1 << 20;
/** `large` is never unpacked ahead. Its second layer takes half of the disk. */
const IMAGES = {
  app: appImage('app'),
  ahead: appImage('ahead'),
  large: imageOf([layerOf(tar(file('small', 'x'))), layerOf(tar(file('large', randomBytes(30 * MIB))))]),
};
/** A call takes milliseconds. The limit ends a call that hangs. */
const LIMIT = { deadline: 60_000 };

const skip = skipWithoutContainers() || unavailable(() => ext4());
for (const program of PROGRAMS) {
  describe(`containerd ${program.version} with a store`, { skip }, () => {
    it('whose disk a container has filled: errors say so, removals make room, and then all goes on', async () => {
      using disk = ext4();
      using place = scratch();
      await using machine = await start(program, disk, place.path);
      await fill(machine, 'first', disk);

      await refused(machine, 'RESOURCE_EXHAUSTED', ['Prepare', 'View', 'Commit', 'Update']);
      assert.match(await refusedRun(machine, 'app'), /no space left.*free space or inodes/);
      for (const tag of ['ahead', 'large']) assert.match((await machine.pull(tag)).stderr, /no space left/);
      assert.equal(await exec(machine, 'first', 'cat /data/mine'), 'mine\n');
      await remove(machine, 'second');
      await exec(machine, 'first', 'busybox rm /data/big');

      const ballast = join(disk.path, 'ballast');
      writeFileSync(ballast, Buffer.alloc(20 * MIB));
      assert.match((await machine.pull('large')).stderr, /no space left/);
      rmSync(ballast);
      for (const tag of ['ahead', 'large']) succeeded(await machine.pull(tag));
      assert.equal(await machine.ctr(...machine.runArgs('ahead', 'ahead', LIST_DATA, '--rm')), dataOf('ahead'));
      await snapshots(machine, 'commit', 'committed', 'begun');
      assert.equal(await exec(machine, 'first', 'cat /data/mine'), 'mine\n');
      await assertOnlyLayersAreLeft(machine);
    });

    it('that gets read-only: errors say so, what is there can be read, and then all goes on', async () => {
      using disk = ext4();
      using place = scratch();
      await using machine = await start(program, disk, place.path);
      using switched = readOnlySwitch(join(machine.root, 'snapshots'));
      switched.set(true);

      await refused(machine, 'UNAVAILABLE', ['Prepare', 'View']);
      assert.match(await refusedRun(machine, 'app'), /EROFS.*mount it read-write/);
      assert.match((await machine.pull('large')).stderr, /EROFS.*mount it read-write/);
      await machine.daemon.restart(); // it asks for all snapshots
      assert.equal(await exec(machine, 'first', 'cat /data/mine'), 'mine\n');
      await remove(machine, 'second');

      switched.set(false);
      succeeded(await machine.pull('large'));
      assert.equal(await machine.ctr(...machine.runArgs('app', 'app', LIST_DATA, '--rm')), dataOf('app'));
      assert.equal(await exec(machine, 'first', 'cat /data/mine'), 'mine\n');
      await snapshots(machine, 'commit', 'committed', 'begun');
      await assertOnlyLayersAreLeft(machine);
    });
  });
}

/** Two containers run, and a snapshot `begun` is unfinished. */
async function start(program: ContainerdProgram, { path }: Disk, place: string): Promise<ServedMachine> {
  const root = join(path, 'store');
  const options = { root, place, images: IMAGES, containers: { pauseImage: 'none' } };
  await using stack = new AsyncDisposableStack();
  const machine = stack.use(await ServedMachine.start(program, options));
  await unpackAll(root, 'overlay', machine.layout, ['app', 'ahead'], { durable: true });
  succeeded(await machine.register('app'));
  for (const id of ['first', 'second']) {
    await machine.ctr(...machine.runArgs(id, 'app', ['/bin/busybox', 'sleep', 'infinity'], '--detach'));
  }
  await exec(machine, 'first', 'echo mine > /data/mine');
  await snapshots(machine, 'prepare', 'begun');
  stack.move();
  return machine;
}

const snapshots = (machine: ServedMachine, ...args: readonly string[]): Promise<string> =>
  machine.ctr('snapshots', '--snapshotter', 'unpackd', ...args);

const exec = (machine: ServedMachine, id: string, script: string): Promise<string> =>
  machine.ctr('tasks', 'exec', '--exec-id', 'exec', id, '/bin/busybox', 'sh', '-c', script);

/** A container writes until no block is free. */
function fill(machine: ServedMachine, id: string, { path }: Disk): Promise<boolean> {
  return eventually('the disk is full', async () => {
    await exec(machine, id, 'busybox dd if=/dev/zero bs=4k 2>/dev/null >>/data/big; busybox sync');
    return statfsSync(path).bavail === 0; // ext4 sets more blocks aside than the file gets
  });
}

/** Ends a container and removes it. A collection of containerd removes its snapshot. */
async function remove(machine: ServedMachine, id: string): Promise<void> {
  await machine.ctr('tasks', 'rm', '--force', id);
  await machine.ctr('containers', 'rm', id);
  await machine.daemon.collect();
}

/** A start that fails. @returns what it complains about */
async function refusedRun(machine: ServedMachine, tag: string): Promise<string> {
  const { status, stderr } = await machine.tryCtr(...machine.runArgs('refused', tag, LIST_DATA, '--rm'));
  assert.notEqual(status, 0);
  return stderr;
}

/** These calls to the snapshotter end with the code and a sentence that names the store. Those that read get an answer. */
async function refused(
  { socket, root }: ServedMachine,
  code: GrpcCode,
  methods: readonly ('Prepare' | 'View' | 'Commit' | 'Update')[],
): Promise<void> {
  const snapshotter = 'unpackd';
  const client = connectContainerd({ socket, namespace: 'default' });
  try {
    const calls = client.snapshots;
    const listed: string[] = [];
    for await (const { info } of calls.List({ snapshotter }, LIMIT)) listed.push(...info.map(({ name }) => name));
    const key = listed.find((name) => name.endsWith('/begun')) ?? assert.fail('begun is not listed');
    assert.equal((await calls.Stat({ snapshotter, key }, LIMIT)).info?.kind, 'ACTIVE');
    assert.equal((await calls.Mounts({ snapshotter, key }, LIMIT)).mounts.length, 1);
    assert.equal((await calls.Usage({ snapshotter, key }, LIMIT)).inodes, 1);
    const parent = IMAGES.app.chainId;
    const writing = {
      Prepare: () => calls.Prepare({ snapshotter, key: 'default/1000/new', parent }, LIMIT),
      View: () => calls.View({ snapshotter, key: 'default/1001/new', parent }, LIMIT),
      Commit: () => calls.Commit({ snapshotter, key, name: 'default/1002/new' }, LIMIT),
      Update: () => calls.Update({ snapshotter, info: { name: key, labels: { a: 'x'.repeat(4000) } } }, LIMIT),
    };
    for (const method of methods) {
      await assert.rejects(writing[method], (error) => {
        assert.ok(error instanceof GrpcError);
        assert.equal(error.code, code, `${method}: ${error.details}`);
        assert.ok(error.details.includes(root), error.details);
        return true;
      });
    }
  } finally {
    client.close();
  }
}

/** After the end of all containers and images, the store has the layers that were unpacked ahead, and no other directory. */
async function assertOnlyLayersAreLeft(machine: ServedMachine): Promise<void> {
  await remove(machine, 'first');
  await snapshots(machine, 'rm', 'committed');
  await machine.removeImages();
  const store = await openSnapshotter({ root: machine.root, type: 'overlay' });
  try {
    const left = await store.walk();
    assert.deepEqual(
      left.filter(({ claim, kind, broken }) => claim !== undefined || kind !== 'committed' || broken !== undefined),
      [],
    );
    assert.equal(left.length, IMAGES.app.layers.length + IMAGES.ahead.layers.length);
    assert.equal(await store.cleanup(), 0);
    const directories = readdirSync(join(machine.root, 'snapshots')).filter((name) => name !== 'store.json');
    assert.equal(directories.length, left.length, directories.join());
  } finally {
    await store.close();
  }
}
