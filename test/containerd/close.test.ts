import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { connectContainerd } from '../../src/grpc/client.ts';
import { ContainerdLeases } from '../../src/snapshots/containerd/leases.ts';
import { Opened } from '../../src/snapshots/containerd/opened.ts';
import { Leases } from '../../src/snapshots/leases.ts';
import { scratch } from '../support/scratch.ts';

const place = scratch();

test('a containerd that does not answer does not delay the end of a process beyond the limit', async () => {
  const socket = join(place.path, 'silent.sock');
  const { promise: connection, resolve: onConnection } = Promise.withResolvers<Socket>();
  const silent = createServer(onConnection);
  await new Promise<void>((resolve) => silent.listen(socket, resolve));
  mkdirSync(join(place.path, 'snapshots'));
  const address = { socket, namespace: 'test', snapshotter: 'overlayfs' };
  const client = connectContainerd(address);
  const [state, files] = [{ path: place.path, id: '0123456789abcdef' }, new Leases(place.path)];
  const opened = new Opened({
    client,
    place: { ...address, root: place.path, canRebase: false, overlayXattrs: 'trusted' },
    state,
    durable: false,
    files,
    leases: new ContainerdLeases(client, 'overlayfs', state, files),
  });
  let hasEnded = false;
  const call = opened
    .run(() => client.version.Version({}))
    .finally(() => {
      hasEnded = true;
    });
  const ending = assert.rejects(call, { code: 'STORE_FAILED' });
  const asked = await connection;
  await opened.close(1);
  assert.equal(hasEnded, false, 'the call has a limit of its own');
  await assert.rejects(
    opened.run(async () => {}),
    { code: 'SHUTTING_DOWN' },
  );
  await ending;
  asked.destroy();
  silent.close();
});
