import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import '../support/needs-root.ts';
import { freePort } from '../../dev/local-programs.ts';
import { connectContainerd } from '../../src/grpc/client.ts';
import { chainOf, someImage, stage, until } from '../e2e/stage.ts';
import { collect, snapshotNames } from './collect.ts';
import { Daemon, PROGRAMS, skipWithoutContainerd } from './daemon.ts';

const LIMIT = 120_000;

for (const program of PROGRAMS) {
  describe(`a worker with containerd ${program.version}`, { skip: skipWithoutContainerd() }, () => {
    let daemon: Daemon;
    before(async () => {
      daemon = await Daemon.start(program);
    });
    after(() => daemon[Symbol.asyncDispose]());

    const settings = (namespace: string) => ({
      UNPACK_SNAPSHOTTER: 'containerd',
      UNPACK_CONTAINERD_SOCKET: daemon.socket,
      UNPACK_CONTAINERD_NAMESPACE: namespace,
      UNPACK_DURABLE: 'true',
    });

    it('waits until containerd runs, and takes jobs then', async () => {
      await using s = await stage();
      const image = someImage('waits', 2);
      await s.push('waits', { app: image });
      await daemon.kill();
      const port = await freePort();
      const starting = s.worker({ ...settings('waits'), UNPACK_HEALTH_PORT: String(port) });
      const answer = () => fetch(`http://127.0.0.1:${port}/readyz`).then((ready) => ready.text());
      const told = async () => /until the store can be opened: containerd at .* does not answer/.test(await answer());
      await until(() => told().catch(() => false), LIMIT);
      await daemon.start();
      const worker = await starting;
      const result = await s.queue.wait(await s.queue.add(s.payload('waits')), { timeout: LIMIT });
      assert.deepEqual(result.store.containerd, { namespace: 'waits', snapshotter: 'overlayfs' });
      assert.deepEqual(result.images[0]?.names?.slice(0, 1), ['registry.example/waits:app']);
      assert.equal(result.images[0]?.durable, true);
      worker.kill('SIGTERM');
      assert.equal(await worker.ended, 0);
      const client = connectContainerd({ socket: daemon.socket, namespace: 'waits' });
      await collect(client);
      assert.deepEqual(await snapshotNames(client), [...chainOf(image)].sort());
      assert.deepEqual((await client.leases.List({})).leases, []);
      client.close();
    });

    it('gives a job back while containerd is down, and completes it in the same attempt', async () => {
      await using s = await stage();
      const image = someImage('down', 2);
      await s.push('down', { app: image });
      const worker = await s.worker({ ...settings('down'), UNPACK_S3_IDLE_TIMEOUT: '2s' });
      const blobs = image.layers.map(({ blob }) => blob.digest.slice('sha256:'.length));
      const ofLayers = ({ key }: { readonly key: string }) => blobs.some((hex) => key.endsWith(hex));
      s.proxy.rules([{ fault: { kind: 'stall', afterBytes: 10_000 }, when: ofLayers }]);
      const job = await s.queue.add(s.payload('down'));
      const client = connectContainerd({ socket: daemon.socket, namespace: 'down' });
      await until(async () => (await snapshotNames(client)).length === 2, LIMIT);
      await daemon.kill();
      s.proxy.rules([]);
      await worker.logged(/takes no more jobs until the store can be written: .*does not answer/);
      await daemon.start();
      const result = await s.queue.wait(job, { timeout: LIMIT });
      assert.equal(result.attempts, 1);
      worker.kill('SIGTERM');
      await worker.ended;
      await collect(client);
      assert.deepEqual(await snapshotNames(client), [...chainOf(image)].sort());
      assert.deepEqual((await client.leases.List({})).leases, []);
      client.close();
    });
  });
}
