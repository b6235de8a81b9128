import assert from 'node:assert/strict';
import { createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { listen } from '../../dev/local-programs.ts';
import { HttpClient, type HttpRequest } from '../../src/http/client.ts';
import { HttpConnection } from '../../src/http/connection.ts';
import { eventually } from '../support/eventually.ts';

/** A client that reads whole bodies from a server that always answers with `hello`. */
describe('the HTTP client', () => {
  let server: Server;
  let request: HttpRequest;
  let connections: number;
  const sockets = new Set<Socket>();

  beforeEach(async () => {
    connections = 0;
    server = createServer((socket) => {
      connections += 1;
      sockets.add(socket);
      socket.on('error', () => {}).on('close', () => sockets.delete(socket));
      socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello'));
    });
    const origin = { secure: false, host: '127.0.0.1', port: await listen(server) };
    request = { origin, head: 'GET / HTTP/1.1\r\nHost: x\r\n\r\n', connectTimeout: 60_000 };
  });
  afterEach(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });

  const read = (client: HttpClient): Promise<string> =>
    new Promise((resolve, reject) => {
      const bytes = Buffer.alloc(5);
      let length = 0;
      client.get(request, {
        begin: () => ({
          buffer: () => bytes.subarray(length),
          filled: (count) => {
            length += count;
            return true;
          },
          end: () => resolve(String(bytes)),
          fail: reject,
        }),
        fail: reject,
      });
    });

  test('reuses a connection, and closes it when the client is closed', async () => {
    const client = new HttpClient();
    assert.deepEqual([await read(client), await read(client)], ['hello', 'hello']);
    assert.equal(connections, 1);
    client.close();
    await eventually('the connection is closed', () => sockets.size === 0);
    await assert.rejects(() => read(client), /the HTTP client is closed/);
  });

  test('closes the connection of a running request when the response ends, if it was closed before', async () => {
    const client = new HttpClient();
    const reading = read(client);
    client.close();
    assert.equal(await reading, 'hello');
    await eventually('the connection is closed', () => sockets.size === 0);
  });

  test('closes the connection if the handler does not want the body', async () => {
    const client = new HttpClient();
    await new Promise<void>((resolve, reject) => {
      client.get(request, { begin: () => void resolve(), fail: reject });
    });
    await eventually('the connection is closed', () => sockets.size === 0);
    client.close();
  });

  test('takes no memory for a response whose handler cancels it', async () => {
    const client = new HttpClient();
    const unused = () => assert.fail('called after cancel');
    await new Promise<void>((resolve) => {
      const transfer = client.get(request, {
        begin: () => {
          transfer.cancel();
          resolve();
          return { buffer: unused, filled: unused, end: unused, fail: unused };
        },
        fail: unused,
      });
    });
    await eventually('the connection is closed', () => sockets.size === 0);
    client.close();
  });

  test('a connection refuses a second request before the response to the first', () => {
    const onClose = () => {};
    const connection = new HttpConnection(request.origin, {
      connectTimeout: 60_000,
      secureContext: undefined,
      onClose,
    });
    const handler = { begin: () => undefined, fail: () => {} };
    connection.send(request.head, handler);
    assert.throws(() => connection.send(request.head, handler), /the HTTP connection is head, not idle/);
    connection.destroy();
    assert.throws(() => connection.send(request.head, handler), /the HTTP connection is closed, not idle/);
  });
});
