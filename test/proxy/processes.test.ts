import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import '../support/needs-root.ts';
import { loadConfig } from '../../src/config.ts';
import { ConfigError } from '../../src/errors.ts';
import { connectContainerd } from '../../src/grpc/client.ts';
import { runCli } from '../cli/run-cli.ts';
import { scratch } from '../support/scratch.ts';
import { SnapshotterProcess } from './served.ts';

/** Makes a snapshot over the socket. @returns the type of its mounts */
async function use(socket: string, key: string): Promise<string[]> {
  const client = connectContainerd({ socket, namespace: 'default' });
  try {
    const { mounts } = await client.snapshots.Prepare({ snapshotter: 'unpackd', key });
    return mounts.map(({ type }) => type);
  } finally {
    client.close();
  }
}

describe('processes that serve a store to containerd', () => {
  test('unpackd snapshotter serves until SIGTERM, and then removes its socket', async () => {
    using place = scratch();
    const [root, socket] = [join(place.path, 'store'), join(place.path, 's.sock')];
    const server = await SnapshotterProcess.start('snapshotter', '--root', root, '--address', socket);
    assert.deepEqual(await use(socket, 'default/1/a'), ['bind']);
    assert.equal(await server.stop(), 0);
    assert.equal(existsSync(socket), false);
    assert.match(server.log, /"msg":"stopped"/);
  });

  test('a second one is refused in one sentence; after SIGKILL of the first it serves', async () => {
    using place = scratch();
    const [root, socket] = [join(place.path, 'store'), join(place.path, 's.sock')];
    const args = ['--root', root, '--snapshotter-socket', socket];
    const server = await SnapshotterProcess.start('snapshotter', ...args);
    const refused = await runCli(['snapshotter', ...args]);
    assert.equal(refused.status, 1);
    assert.equal(
      refused.stderr,
      `unpackd: [ADDRESS_UNAVAILABLE] process ${server.pid} listens on ${socket} already: stop it, or choose another path\n`,
    );
    assert.deepEqual(await use(socket, 'default/1/a'), ['bind']);
    await server.kill();
    assert.equal(existsSync(socket), true);
    const next = await server.again();
    assert.deepEqual(await use(socket, 'default/2/a'), ['bind']);
    assert.equal(await next.stop(), 0);
  });

  test('a store is served on one socket only, and its claims are not released meanwhile', async () => {
    using place = scratch();
    const [root, socket, other] = ['store', 's.sock', 'other.sock'].map((name) => join(place.path, name));
    assert.ok(root !== undefined && socket !== undefined && other !== undefined);
    const server = await SnapshotterProcess.start('snapshotter', '--root', root, '--address', socket);
    await use(socket, 'default/1/a');
    const refused = await runCli(['snapshotter', '--root', root, '--address', other]);
    assert.equal(refused.status, 1);
    assert.equal(
      refused.stderr,
      `unpackd: [ADDRESS_UNAVAILABLE] process ${server.pid} serves the store ${root} already on ${socket}: use that socket, or another store, because a store is for one containerd\n`,
    );
    assert.equal(existsSync(other), false);
    const release = ['snapshots', 'release', '--root', root];
    const kept = await runCli(release);
    assert.equal(kept.status, 1);
    assert.equal(
      kept.stderr,
      `unpackd: [SNAPSHOT_IN_USE] process ${server.pid} on ${socket} serves ${root} to containerd, which would lose its snapshots: stop it first if that containerd is gone for ever\n`,
    );
    await server.kill();
    assert.match((await runCli(release)).stdout, /^removed 1 snapshot of containerd/);
  });

  test('a worker serves its store too, also while Redis does not answer', async () => {
    using place = scratch();
    const [root, socket] = [join(place.path, 'store'), join(place.path, 's.sock')];
    const redis = ['--redis-url', 'redis://127.0.0.1:1'];
    const worker = await SnapshotterProcess.start('worker', '--root', root, '--snapshotter-socket', socket, ...redis);
    assert.deepEqual(await use(socket, 'default/1/a'), ['bind']);
    assert.equal(await worker.stop(), 0, worker.log);
    assert.equal(existsSync(socket), false);
  });

  test('a worker and unpackd snapshotter on one socket: one serves, and a worker takes over after SIGKILL', async () => {
    using place = scratch();
    const [root, socket] = [join(place.path, 'store'), join(place.path, 's.sock')];
    const args = ['--root', root, '--snapshotter-socket', socket, '--redis-url', 'redis://127.0.0.1:1'];
    const first = await SnapshotterProcess.start('worker', ...args);
    const refused = await runCli(['snapshotter', '--root', root, '--address', socket]);
    assert.equal(
      refused.stderr,
      `unpackd: [ADDRESS_UNAVAILABLE] process ${first.pid} listens on ${socket} already: stop it, or choose another path\n`,
    );
    const second = await first.again(); // it logs `another process serves containerd on …`
    assert.match(second.log, /another process serves containerd on /);
    assert.deepEqual(await use(socket, 'default/1/a'), ['bind']);
    await first.kill();
    await second.logged(`serves ${root} to containerd`);
    assert.deepEqual(await use(socket, 'default/2/a'), ['bind']);
    assert.equal(await second.stop(), 0, second.log);
    assert.equal(existsSync(socket), false);
    const alone = await SnapshotterProcess.start('snapshotter', '--root', root, '--address', socket);
    assert.deepEqual(await use(socket, 'default/3/a'), ['bind']);
    assert.equal(await alone.stop(), 0);
  });

  test("containerd's own store cannot be served, nor one without owners", async () => {
    const wrong = (env: Readonly<Record<string, string>>, message: RegExp) =>
      assert.throws(
        () => loadConfig({}, { UNPACK_SNAPSHOTTER_SOCKET: '/run/s', ...env }),
        (error) => {
          return error instanceof ConfigError && message.test(error.message);
        },
      );
    wrong({ UNPACK_SNAPSHOTTER: 'containerd' }, /only a store of our own is served on a socket/);
    wrong({ UNPACK_OWNERSHIP: 'squash' }, /UNPACK_SNAPSHOTTER_SOCKET are set, but containers need the owners/);
    const { status, stderr } = await runCli(['snapshotter', '--snapshotter', 'containerd']);
    assert.equal(status, 2);
    assert.match(stderr, /^unpackd: \[INVALID_SETTING\] unpackd snapshotter needs a store of our own: [^\n]+\n$/);
  });
});
