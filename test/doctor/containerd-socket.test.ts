import assert from 'node:assert/strict';
import { renameSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttp2Server, type IncomingHttpHeaders, type ServerHttp2Stream } from 'node:http2';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { checkContainerd } from '../../src/doctor/containerd.ts';
import { scratch } from '../support/scratch.ts';

describe('the doctor looks at a socket', () => {
  const look = async (socket: string) => {
    const [check, ...others] = await checkContainerd({ socket, namespace: 'default' }, 'overlayfs', []);
    assert.deepEqual([check?.name, check?.status, others], ['containerd', 'fail', []]);
    return check;
  };

  test('that does not exist', async () => {
    using folder = scratch();
    const check = await look(join(folder.path, 'none.sock'));
    assert.match(check?.finding ?? '', /does not exist$/);
    assert.match(check?.advice ?? '', /^start containerd .*; in a container, mount the directory of the host/);
  });

  test('that nobody listens on', async () => {
    using folder = scratch();
    const socket = join(folder.path, 'left.sock');
    const server = await listening(createServer(), join(folder.path, 'made.sock'));
    renameSync(join(folder.path, 'made.sock'), socket); // else it is removed when the server closes
    await new Promise((resolve) => server.close(resolve));
    assert.match((await look(socket))?.finding ?? '', /is there, but no program listens on it$/);
  });

  test('that is a file', async () => {
    using folder = scratch();
    const path = join(folder.path, 'file');
    writeFileSync(path, '');
    assert.match((await look(path))?.finding ?? '', /file is (not a socket|there, but no program listens on it)$/);
  });

  test('of another program', async () => {
    using folder = scratch();
    const socket = join(folder.path, 'docker.sock');
    const server = await listening(
      createHttpServer((_, response) => response.end()),
      socket,
    );
    const check = await look(socket);
    server.close();
    assert.match(check?.finding ?? '', /does not answer as containerd does: /);
    assert.match(check?.advice ?? '', /not to that of Docker/);
  });

  test('of a containerd whose disk has become read-only', async () => {
    using folder = scratch();
    const socket = join(folder.path, 'containerd.sock');
    const server = createHttp2Server();
    server.on('stream', (stream: ServerHttp2Stream, { ':path': path = '' }: IncomingHttpHeaders) => {
      const fault = path.endsWith('/List') ? "database isn't correctly mapped" : undefined;
      stream.respond({ 'content-type': 'application/grpc' }, { waitForTrailers: true });
      stream.once('wantTrailers', () => {
        stream.sendTrailers(
          fault === undefined ? { 'grpc-status': '0' } : { 'grpc-status': '2', 'grpc-message': fault },
        );
      });
      stream.end(Buffer.alloc(5)); // an empty message
    });
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    const check = await look(socket);
    server.close();
    assert.match(check?.finding ?? '', /can't write to the disk of its root \(database isn't correctly mapped\)$/);
    assert.match(
      check?.advice ?? '',
      /^see the kernel log \(dmesg\), run fsck, mount it read-write and restart containerd$/,
    );
  });

  test('of a program that hangs', async () => {
    using folder = scratch();
    const socket = join(folder.path, 'hangs.sock');
    const connections: Socket[] = [];
    const server = await listening(
      createServer((connection) => connections.push(connection)),
      socket,
    );
    const check = await look(socket);
    server.close();
    for (const connection of connections) connection.destroy();
    assert.match(check?.finding ?? '', /accepts connections, but nothing answers within 5 s$/);
  });
});

async function listening<S extends Server>(server: S, socket: string): Promise<S> {
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  return server;
}
