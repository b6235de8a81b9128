import assert from 'node:assert/strict';
import { existsSync, lstatSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { listenOn } from '../../src/grpc/socket.ts';
import { scratch } from '../support/scratch.ts';

const place = scratch();

/** Listens on a path of this test until the process ends. */
const bind = (path: string): Promise<void> =>
  new Promise((resolve, reject) => {
    const server = createServer().unref();
    server.once('error', reject);
    server.listen(path, resolve);
  });

test('a folder and a file that have the name of the new socket are refused and stay', async () => {
  for (const kind of ['folder', 'file'] as const) {
    const path = join(place.path, `${kind}.sock`);
    const file = kind === 'folder' ? join(`${path}.new`, 'precious') : `${path}.new`;
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, 'precious');
    await assert.rejects(listenOn(path, bind), /\.new is there already and is not of unpackd: move it away/);
    assert.equal(readFileSync(file, 'utf8'), 'precious');
    assert.equal(existsSync(path), false);
  }
});

test('a folder that cannot be made is refused', async () => {
  // mkdir below /proc is ENOENT, whatever is there
  await assert.rejects(listenOn('/proc/unpackd/s.sock', bind), /can't listen on \/proc\/unpackd\/s\.sock: /);
});

test('what a process left that died before it renamed its socket is replaced', async () => {
  const path = join(place.path, 'left.sock');
  mkdirSync(`${path}.new`);
  await bind(join(`${path}.new`, 's'));
  const listening = await listenOn(path, bind);
  assert.equal(lstatSync(path).isSocket(), true);
  assert.equal(existsSync(`${path}.new`), false);
  listening.release();
});
