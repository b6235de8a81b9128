import assert from 'node:assert/strict';
import { cpSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import '../support/needs-root.ts';
import { findProgram } from '../../dev/local-programs.ts';
import { finished } from '../cli/run-cli.ts';
import { startChild } from '../support/child.ts';
import { skipFor } from '../support/present.ts';
import { scratch } from '../support/scratch.ts';
import { SnapshotterProcess } from './served.ts';

/** containerd's own suite of a snapshotter (Debian's package of its sources), over the socket of `unpackd snapshotter`. */

const GOPATH = '/usr/share/gocode';
const SOURCES = join(GOPATH, 'src/github.com/containerd/containerd/snapshots/testsuite');
const skip = skipFor(
  (findProgram('go') === undefined || !existsSync(SOURCES)) &&
    "containerd's suite is not installed: apt-get install golang-go golang-github-containerd-containerd-dev",
);

describe("containerd's suite of a snapshotter", { skip }, () => {
  const place = scratch();
  const program = join(place.path, 'suite.test');

  before(async () => {
    const sources = join(place.path, 'suite');
    cpSync(join(import.meta.dirname, 'suite'), sources, { recursive: true });
    const env = { ...process.env, GOPATH, GO111MODULE: 'off', CGO_ENABLED: '0', GOCACHE: join(place.path, 'cache') };
    const child = startChild('go', ['test', '-c', '-o', program, '.'], { cwd: sources, env, stdio: 'pipe' });
    const { status, stderr, stdout } = await finished(child);
    assert.equal(status, 0, `${stdout}${stderr}`);
  });

  // the tests of a native store are those without 128 layers, each with a copy of all below
  for (const [type, suite, pattern, passed] of [
    ['overlay', 'overlayfs', '.', 20],
    ['native', 'native', '^[A-Z]', 19],
  ] as const) {
    test(`passes over a store of the type ${type}`, async () => {
      const socket = join(place.path, `${type}.sock`);
      const root = join(place.path, type);
      const server = await SnapshotterProcess.start(
        'snapshotter',
        '--root',
        root,
        '--snapshotter',
        type,
        '--address',
        socket,
      );
      const env = { ...process.env, SNAPSHOTTER: socket, SUITE: suite };
      const args = ['-test.root', '-test.parallel', '1', '-test.v', '-test.run', `TestSnapshotter/${pattern}`];
      const { status, stdout, stderr } = await finished(startChild(program, args, { env, stdio: 'pipe' }));
      assert.equal(status, 0, `${stdout}${stderr}${server.log}`);
      assert.equal(stdout.match(/^ +--- PASS: TestSnapshotter\//gm)?.length, passed, stdout);
      // it skips itself on Linux, whatever the snapshotter
      assert.deepEqual(stdout.match(/(?<=--- SKIP: TestSnapshotter\/)\w+/g), ['Rename']);
      assert.equal(await server.stop(), 0, server.log);
    });
  }
});
