import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import '../support/needs-root.ts';
import { loadConfig, storePlace } from '../../src/config.ts';
import { ConfigError, toUnpackError } from '../../src/errors.ts';
import { connectContainerd } from '../../src/grpc/client.ts';
import { openContainerdStore } from '../../src/snapshots/containerd/open.ts';
import { findSnapshotter } from '../../src/snapshots/containerd/plugin.ts';
import { openStoreToRead } from '../../src/snapshots/open-store.ts';
import { runChild } from '../support/child.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';
import { collect, snapshotNames, wireSnapshots } from './collect.ts';
import { Daemon, PROGRAMS, skipWithoutContainerd } from './daemon.ts';
import { freshOptions } from './temporary-store.ts';

const MAIN = join(import.meta.dirname, '../../src/cli/main.ts');
const code = (wanted: string) => (error: unknown) => toUnpackError(error).code === wanted;

for (const program of PROGRAMS) {
  describe(`opening containerd ${program.version}`, { skip: skipWithoutContainerd() }, () => {
    let daemon: Daemon;
    before(async () => {
      daemon = await Daemon.start(program);
    });
    after(() => daemon[Symbol.asyncDispose]());

    const snapshots = () => join(daemon.directory, 'root/io.containerd.snapshotter.v1.overlayfs/snapshots');
    const settings = (root: string, namespace: string) => ({
      UNPACK_ROOT: root,
      UNPACK_SNAPSHOTTER: 'containerd',
      UNPACK_CONTAINERD_SOCKET: daemon.socket,
      UNPACK_CONTAINERD_NAMESPACE: namespace,
    });
    const layout = async (folder: string) => {
      const layers = ['one', 'two', 'three'].map((name) => layerOf(tar(file(name, name))));
      await writeLayout(join(folder, 'layout'), { app: imageOf(layers) });
      return `${join(folder, 'layout')}:app`;
    };

    test('the settings name it', () => {
      assert.deepEqual(storePlace(loadConfig({}, settings('/state', 'default'))), {
        type: 'containerd',
        socket: daemon.socket,
        namespace: 'default',
        snapshotter: 'overlayfs',
        stateRoot: '/state',
      });
    });

    test('only the state directory is made below UNPACK_ROOT, and its ID stays', async () => {
      using place = scratch();
      const options = freshOptions(daemon, join(place.path, 'state'));
      const [first, second] = await Promise.all([1, 2].map(() => openContainerdStore(options)));
      assert.ok(first !== undefined && second !== undefined);
      assert.equal(first.extraction, second.extraction);
      assert.deepEqual(readdirSync(join(place.path, 'state')), ['containerd']);
      assert.match(
        first.state,
        new RegExp(`^${place.path}/state/containerd/${options.namespace}-overlayfs-[0-9a-f]{12}$`),
      );
      await first.close();
      await second.close();
      const again = await openContainerdStore(options);
      assert.equal(again.extraction, first.extraction);
      await again.close();
    });

    test('to read makes nothing, neither in containerd nor here', async () => {
      using place = scratch();
      const options = freshOptions(daemon, join(place.path, 'state'));
      const store = await openStoreToRead({ type: 'containerd', ...options });
      assert.deepEqual(await store.walk(), []);
      assert.deepEqual(await store.images(), []);
      await store.close();
      assert.equal(existsSync(join(place.path, 'state')), false);
      const client = connectContainerd(options);
      const { namespaces } = await client.namespaces.List({});
      assert.ok(namespaces.every(({ name }) => name !== options.namespace));
      client.close();
    });

    test('without a server at the socket is STORE_FAILED with what to do', async () => {
      using place = scratch();
      const socket = join(place.path, 'nobody.sock');
      const opening = () => openContainerdStore({ ...freshOptions(daemon, place.path), socket });
      await assert.rejects(opening, code('STORE_FAILED'));
      await assert.rejects(opening, /nobody\.sock does not answer .*: start it, or set UNPACK_CONTAINERD_SOCKET/);
    });

    test('a socket that never answers is STORE_FAILED after some seconds, and its connection ends', {
      timeout: 60_000,
    }, async () => {
      using place = scratch();
      const socket = join(place.path, 'silent.sock');
      const server = createServer((connection) => connection.resume()).listen(socket);
      await once(server, 'listening');
      const client = connectContainerd({ socket, namespace: 'default' });
      const finding = findSnapshotter(client, { socket, snapshotter: 'overlayfs' }, 300);
      await assert.rejects(finding, code('STORE_FAILED'));
      await assert.rejects(finding, /silent\.sock has not answered .* in time: look whether it is containerd's socket/);
      client.close();
      // when the last connection has ended
      await once(server.close(), 'close');
    });

    test('a snapshotter that containerd does not have is STORE_FAILED with those that it has', async () => {
      using place = scratch();
      const opening = openContainerdStore({ ...freshOptions(daemon, place.path), snapshotter: 'nothing' });
      await assert.rejects(
        opening,
        /nothing is none of its snapshotters: set .*_SNAPSHOTTER \(running are .*overlayfs/,
      );
    });

    test('a snapshotter that makes no overlays is refused, and nothing of the try stays', async () => {
      using place = scratch();
      const options = freshOptions(daemon, place.path);
      const opening = openContainerdStore({ ...options, snapshotter: 'native' });
      await assert.rejects(
        opening,
        /can't be used as the snapshot store: .*: set UNPACK_CONTAINERD_SNAPSHOTTER=overlayfs/,
      );
      const client = connectContainerd(options);
      await collect(client);
      const left: string[] = [];
      for await (const { info } of client.snapshots.List({ snapshotter: 'native' }))
        left.push(...info.map((i) => i.name));
      assert.deepEqual(left, []);
      client.close();
    });

    for (const [what, script] of [
      ['are missing here', 'mount -t tmpfs none "$0"'],
      ['are others here', 'mount -t tmpfs none "$0" && for id in $(seq 200); do mkdir -p "$0/$id/fs"; done'],
    ] as const) {
      test(`containerd’s directories that ${what} are refused before any layer`, async () => {
        using place = scratch();
        const options = freshOptions(daemon, place.path);
        const env = { ...process.env, ...settings(join(place.path, 'state'), options.namespace) };
        const args = ['apply', await layout(place.path), '--image', 'example.org/app:1'];
        const command = [process.execPath, MAIN, ...args];
        const shell = ['sh', '-e', '-c', `${script}\nexec "$@"`, snapshots(), ...command];
        const { status, stderr } = runChild('unshare', ['--mount', '--propagation', 'private', ...shell], env);
        assert.equal(status, 1, stderr);
        assert.match(stderr, /is not here what it is for containerd: mount \S+ at the same path, from the same file/);
        const client = connectContainerd(options);
        assert.deepEqual(await snapshotNames(client), []);
        client.close();
      });
    }

    test('apply unpacks and records an image, and finds it again', async () => {
      using place = scratch();
      const options = freshOptions(daemon, place.path);
      const env = { ...process.env, ...settings(join(place.path, 'state'), options.namespace) };
      const run = async () => {
        const args = ['apply', await layout(place.path), '--image', 'example.org/app:1', '--json'];
        const { status, stdout, stderr } = runChild(process.execPath, [MAIN, ...args], env);
        assert.equal(status, 0, stderr);
        return JSON.parse(stdout);
      };
      const first = await run();
      assert.deepEqual(first.store.containerd, { namespace: options.namespace, snapshotter: 'overlayfs' });
      assert.equal(first.images[0].names[0], 'example.org/app:1');
      assert.equal(first.images[0].durable, true);
      const client = connectContainerd(options);
      await collect(client);
      const made = await wireSnapshots(client);
      assert.deepEqual(
        made.map(({ kind }) => kind),
        ['COMMITTED', 'COMMITTED', 'COMMITTED'],
      );
      assert.ok(made.some(({ name }) => name === first.images[0].chainId));
      assert.deepEqual((await client.leases.List({})).leases, []);
      client.close();
      const states = (result: typeof first) => result.images[0].layers.map(({ state }: { state: string }) => state);
      assert.deepEqual(states(first), ['applied', 'applied', 'applied']);
      assert.deepEqual(states(await run()), ['existed', 'existed', 'existed']);
    });
  });
}

test('squash is refused, because containers need the owners', () => {
  const settings = { UNPACK_SNAPSHOTTER: 'containerd', UNPACK_OWNERSHIP: 'squash' };
  assert.throws(() => loadConfig({}, settings), ConfigError);
  assert.throws(() => loadConfig({}, settings), /set UNPACK_OWNERSHIP=keep$/);
});

test('a name that containerd cannot have is refused', () => {
  for (const name of ['UNPACK_CONTAINERD_NAMESPACE', 'UNPACK_CONTAINERD_SNAPSHOTTER']) {
    for (const value of ['a/b', '..', 'a b', '-a', 'a'.repeat(77)]) {
      assert.throws(() => loadConfig({}, { [name]: value }), new RegExp(`^ConfigError: ${name}=.*: write at most 76`));
    }
    loadConfig({}, { [name]: 'k8s.io' });
  }
});
