import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type ContainerdClient, connectContainerd } from '../../src/grpc/client.ts';
import { loadService } from '../../src/grpc/definitions.ts';
import { GrpcError, isGrpcError } from '../../src/grpc/errors.ts';
import { Daemon, PROGRAMS, skipWithoutContainerd } from '../containerd/daemon.ts';
import { eventually } from '../support/eventually.ts';
import { scratch } from '../support/scratch.ts';

const snapshotter = 'overlayfs';

for (const program of PROGRAMS) {
  describe(`a client of containerd ${program.version}`, { skip: skipWithoutContainerd() }, () => {
    let daemon: Daemon;
    let client: ContainerdClient;
    before(async () => {
      daemon = await Daemon.start(program);
      client = connectContainerd({ socket: daemon.socket, namespace: 'one' });
    });
    after(async () => {
      client.close();
      await daemon[Symbol.asyncDispose]();
    });

    test('asks for the version', async () => {
      const { version } = await client.version.Version({});
      assert.equal(version.replace(/^v/, ''), daemon.version);
    });

    test('asks for a snapshotter, its directory and its capabilities', async () => {
      const filters = ['type==io.containerd.snapshotter.v1,id==overlayfs'];
      const { plugins } = await client.introspection.Plugins({ filters });
      assert.equal(plugins.length, 1);
      assert.equal(plugins[0]?.exports.root, join(daemon.directory, 'root/io.containerd.snapshotter.v1.overlayfs'));
      assert.equal(plugins[0]?.initErr, null);
      assert.ok(Array.isArray(plugins[0]?.capabilities));
    });

    test('makes and lists snapshots under a lease', async () => {
      const id = 'for-snapshots';
      const lease = { lease: id };
      await client.leases.Create({ id, labels: { 'containerd.io/gc.expire': new Date(2 ** 42).toISOString() } });
      const { mounts } = await client.snapshots.Prepare(
        { snapshotter, key: 'a', labels: { 'unpackd.test/a': 'ä' } },
        lease,
      );
      assert.deepEqual(
        mounts.map(({ type }) => type),
        ['bind'],
      );
      await client.snapshots.Commit({ snapshotter, key: 'a', name: 'A', labels: { 'unpackd.test/c': '1' } }, lease);
      await client.snapshots.Prepare({ snapshotter, key: 'b', parent: 'A' }, lease);
      const { info } = await client.snapshots.Stat({ snapshotter, key: 'b' });
      assert.deepEqual([info?.kind, info?.parent], ['ACTIVE', 'A']);
      assert.ok(Math.abs((info?.createdAt?.seconds ?? 0) * 1000 - Date.now()) < 3_600_000);
      const names: string[] = [];
      for await (const { info } of client.snapshots.List({ snapshotter })) names.push(...info.map(({ name }) => name));
      assert.deepEqual(names.sort(), ['A', 'b']);
      const { resources } = await client.leases.ListResources({ id });
      assert.deepEqual(resources.map((resource) => `${resource.type} ${resource.id}`).sort(), [
        'snapshots/overlayfs A',
        'snapshots/overlayfs b',
      ]);
      await client.leases.Delete({ id, sync: true });
      const left: string[] = [];
      for await (const { info } of client.snapshots.List({ snapshotter })) left.push(...info.map(({ name }) => name));
      assert.deepEqual(left, []);
    });

    test('updates one label', async () => {
      await client.leases.Create({ id: 'for-labels' });
      await client.snapshots.Prepare(
        { snapshotter, key: 'l', labels: { 'unpackd.test/a': '1', 'unpackd.test/b': '2' } },
        { lease: 'for-labels' },
      );
      const { info } = await client.snapshots.Update({
        snapshotter,
        info: { name: 'l', labels: { 'unpackd.test/b': '3' } },
        updateMask: { paths: ['labels.unpackd.test/b'] },
      });
      assert.deepEqual(info?.labels, { 'unpackd.test/a': '1', 'unpackd.test/b': '3' });
      await client.leases.Delete({ id: 'for-labels' });
    });

    test('writes a blob of several messages, and reads it and a part of it', async () => {
      await client.leases.Create({ id: 'for-content' });
      const bytes = Buffer.alloc(5 << 20, 'unpackd');
      const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
      const ref = 'a-blob';
      const half = bytes.length / 2;
      const requests = [
        { action: 'WRITE', ref, total: bytes.length, expected: digest, offset: 0, data: bytes.subarray(0, half) },
        { action: 'COMMIT', ref, total: bytes.length, expected: digest, offset: half, data: bytes.subarray(half) },
      ] as const;
      let last: object = {};
      for await (const { action, offset, digest } of client.content.Write(requests, { lease: 'for-content' })) {
        last = { action, offset, digest };
      }
      assert.deepEqual(last, { action: 'COMMIT', offset: bytes.length, digest });
      const read: Buffer[] = [];
      for await (const { data } of client.content.Read({ digest })) read.push(data);
      assert.ok(Buffer.concat(read).equals(bytes));
      for await (const { data } of client.content.Read({ digest, offset: 7, size: 7 })) {
        assert.equal(data.toString(), 'unpackd');
      }
      await assert.rejects(
        async () => {
          for await (const _ of client.content.Write(requests, { lease: 'for-content' }));
        },
        (error) => isGrpcError(error, 'ALREADY_EXISTS'),
      );
      await client.leases.Delete({ id: 'for-content' });
    });

    test('records an image in its namespace only', async () => {
      const target = {
        mediaType: 'application/vnd.oci.image.manifest.v1+json',
        digest: `sha256:${'0'.repeat(64)}`,
        size: 2,
      };
      await client.images.Create({ image: { name: 'example.org/app:1', target, labels: {} } });
      const { image } = await client.images.Get({ name: 'example.org/app:1' });
      assert.deepEqual([image?.target?.digest, image?.target?.size], [target.digest, 2]);
      const other = connectContainerd({ socket: daemon.socket, namespace: 'two' });
      assert.deepEqual((await other.images.List({})).images, []);
      other.close();
      const { namespaces } = await client.namespaces.List({});
      assert.ok(namespaces.some(({ name }) => name === 'one'));
      await client.images.Delete({ name: 'example.org/app:1' });
    });

    test('throws an error with the code, the reason and the method', async () => {
      await assert.rejects(client.snapshots.Stat({ snapshotter, key: 'nothing' }), (error) => {
        assert.ok(error instanceof GrpcError);
        assert.equal(error.code, 'NOT_FOUND');
        assert.match(error.details, /nothing/);
        assert.match(error.method, /Snapshots\/Stat$/);
        return true;
      });
    });

    test('ends a call that exceeds its deadline', async () => {
      process.kill(daemon.pid, 'SIGSTOP');
      try {
        // each thread stops by itself
        const states = () => globSync(`/proc/${daemon.pid}/task/*/stat`).map((path) => readFileSync(path, 'utf8'));
        await eventually('containerd has stopped', () => states().every((stat) => stat.includes(') T ')));
        await assert.rejects(client.version.Version({}, { deadline: 200 }), (error) =>
          isGrpcError(error, 'DEADLINE_EXCEEDED'),
        );
      } finally {
        process.kill(daemon.pid, 'SIGCONT');
      }
      await client.version.Version({});
    });

    test('connects again after containerd has been killed and started', async () => {
      await daemon.kill();
      await assert.rejects(client.version.Version({}), (error) => isGrpcError(error, 'UNAVAILABLE'));
      await daemon.start();
      await eventually('the client connects again', async () => {
        try {
          return await client.version.Version({}, { deadline: 60_000 });
        } catch (error) {
          if (!isGrpcError(error, 'UNAVAILABLE')) throw error;
          return undefined;
        }
      });
    });
  });
}

test('a socket that nobody serves is UNAVAILABLE', async () => {
  using place = scratch();
  const socket = join(place.path, 'nobody.sock');
  const client = connectContainerd({ socket, namespace: 'default' });
  await assert.rejects(client.version.Version({}), (error) => {
    assert.ok(isGrpcError(error, 'UNAVAILABLE'));
    assert.equal(error.details, `connect ENOENT ${socket}`);
    return true;
  });
  client.close();
});

test('a service that no file describes is refused', () => {
  assert.throws(() => loadService('version.proto', 'containerd.services.version.v1.Other'), /describes no service/);
});
