import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

const root = join(import.meta.dirname, '../..');

describe('the output of npm run build', () => {
  const dist = scratch();
  const main = join(dist.path, 'dist/src/cli/main.cjs');
  before(() => {
    process.once('exit', () => dist[Symbol.dispose]());
    // beside package.json and node_modules, as published
    for (const name of ['package.json', 'node_modules']) execFileSync('ln', ['-s', join(root, name), dist.path]);
    execFileSync(process.execPath, [join(root, 'build.ts'), join(dist.path, 'dist')]);
  });

  test('prints its version', () => {
    assert.match(execFileSync(process.execPath, [main, '--version'], { encoding: 'utf8' }), /^\d+\.\d+\.\d+\n$/);
  });

  test('has a command that runs on the Node of node_modules, also through a link on the PATH', () => {
    using folder = scratch();
    const link = join(folder.path, 'unpackd');
    execFileSync('ln', ['-s', join(dist.path, 'dist/unpackd'), link]);
    writeFileSync(join(folder.path, 'node'), '#!/bin/sh\necho an old Node\n', { mode: 0o755 });
    const env = { ...process.env, PATH: `${folder.path}:/usr/bin:/bin` };
    assert.match(execFileSync('unpackd', ['--version'], { encoding: 'utf8', env }), /^\d+\.\d+\.\d+\n$/);
    const { status } = spawnSync('unpackd', ['snapshots', 'stat'], { env });
    assert.equal(status, 2);
  });

  test('says on an older Node that it needs a newer one', () => {
    using folder = scratch();
    const old = join(folder.path, 'old.cjs');
    const versions = "{ ...process.versions, node: '20.20.2' }";
    writeFileSync(old, `Object.defineProperty(process, 'versions', { value: ${versions} });`);
    const { status, stderr } = spawnSync(process.execPath, ['--require', old, main, '--version'], { encoding: 'utf8' });
    assert.equal(status, 1);
    assert.match(stderr, /^unpackd: it needs Node 24 or newer, and this is v[\d.]+: install a newer Node\n$/);
  });

  test('has the .proto files, so that its commands reach a containerd', () => {
    const env = {
      ...process.env,
      UNPACK_SNAPSHOTTER: 'containerd',
      UNPACK_CONTAINERD_SOCKET: join(dist.path, 'nobody.sock'),
    };
    const { status, stderr } = spawnSync(process.execPath, [main, 'snapshots', 'ls'], { encoding: 'utf8', env });
    assert.equal(status, 1, stderr);
    assert.match(stderr, /\[STORE_FAILED\] containerd at .*nobody\.sock does not answer/);
  });

  test('contains the compile cache of both programs, and runs without it', () => {
    const compiled = join(dist.path, 'dist/compiled');
    const sizes = readdirSync(compiled, { recursive: true, encoding: 'utf8' })
      .map((path) => statSync(join(compiled, path)))
      .flatMap((status) => (status.isFile() ? [status.size] : []));
    assert.ok(sizes.filter((size) => size > 50_000).length >= 2, `${sizes}`);
    rmSync(compiled, { recursive: true });
    writeFileSync(compiled, 'nothing can be kept here');
    assert.match(execFileSync(process.execPath, [main, '--version'], { encoding: 'utf8' }), /^\d+\.\d+\.\d+\n$/);
  });

  test('unpacks an image on apply threads', async () => {
    using folder = scratch();
    const image = imageOf([layerOf(tar(file('hello', 'world')))]);
    await writeLayout(join(folder.path, 'layout'), { app: image });
    const args = ['apply', `${folder.path}/layout:app`, '--root', `${folder.path}/store`, '--json'];
    const result = JSON.parse(execFileSync(process.execPath, [main, ...args], { encoding: 'utf8' }));
    assert.equal(result.images[0].chainId, image.chainId);
  });

  test('opens a store on a thread', async () => {
    using folder = scratch();
    const workerData = { root: join(folder.path, 'store'), type: 'overlay', ownership: 'squash' };
    const thread = new Worker(join(dist.path, 'dist/workers/store.cjs'), { workerData });
    const [answer] = await once(thread, 'message');
    assert.equal(answer.open?.root, workerData.root, JSON.stringify(answer));
    thread.postMessage({ id: 0, method: 'close', args: [] });
    assert.deepEqual(await once(thread, 'exit'), [0]);
  });

  test('has no demo, and says how to run it in a checkout', () => {
    const { status, stderr } = spawnSync(process.execPath, [main, 'demo'], { encoding: 'utf8' });
    assert.equal(status, 2);
    assert.equal(
      stderr,
      'unpackd: [USAGE] the demo needs a checkout of unpackd: run there npm ci, then npm run demo\n',
    );
    const built = join(dist.path, 'dist');
    const scripts = readdirSync(built, { recursive: true, encoding: 'utf8' }).filter((path) => /\.c?js$/.test(path));
    const devs = scripts.filter(
      (path) => path.startsWith('dev/') || /startS3Server|startRedis/.test(read(built, path)),
    );
    assert.deepEqual(devs, []);
  });

  test('runs the demo of the checkout that it was built in, from the sources', () => {
    const source = join(dist.path, 'src/cli');
    mkdirSync(source, { recursive: true });
    mkdirSync(join(dist.path, 'dev'));
    writeFileSync(join(source, 'main.ts'), 'const args: string[] = process.argv.slice(2); console.log(args.join());');
    try {
      assert.equal(execFileSync(process.execPath, [main, 'demo', '--keep'], { encoding: 'utf8' }), 'demo,--keep\n');
    } finally {
      for (const name of ['src', 'dev']) rmSync(join(dist.path, name), { recursive: true });
    }
  });
});

function read(folder: string, path: string): string {
  return readFileSync(join(folder, path), 'utf8');
}
