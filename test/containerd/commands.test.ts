import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { formatPlatform, hostPlatform } from '../../src/oci/platform.ts';
import { isResult } from '../../src/queue/result-schema.ts';
import { type Finished, runCli } from '../cli/run-cli.ts';
import { imageOf, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { Cri } from './cri.ts';
import { Daemon, isSince, PROGRAMS, skipWithoutContainers } from './daemon.ts';
import { appImage, dataOf, LIST_DATA } from './images.ts';

const PLATFORM = formatPlatform(hostPlatform());
const NAME = 'registry.example.com/team/app:1';
const [image, other] = [appImage(), appImage('other')];

for (const program of PROGRAMS) {
  describe(`commands with a store in containerd ${program.version}`, { skip: skipWithoutContainers() }, () => {
    const folder = scratch();
    const layout = join(folder.path, 'layout');
    let daemon: Daemon;
    let settings: string[];

    before(async () => {
      await writeLayout(layout, { app: image, other, empty: imageOf([], hostPlatform()) });
      daemon = await Daemon.start(program, { containers: { pauseImage: 'example.com/pause:1' } });
      await new Cri(daemon).ready();
      const root = join(folder.path, 'store');
      settings = ['--snapshotter', 'containerd', '--containerd-socket', daemon.socket, '--root', root];
    });
    after(async () => {
      await daemon[Symbol.asyncDispose]();
      folder[Symbol.dispose]();
    });

    const run = (...args: string[]): Promise<Finished> => runCli([...args, ...settings]);
    const json = async (...args: string[]) => {
      const { stdout, stderr, status } = await run(...args, '--json');
      assert.equal(status, 0, stderr);
      return JSON.parse(stdout);
    };
    const references = async (): Promise<string[]> => {
      const { images }: { images: { reference: string }[] } = await json('images', 'ls');
      return images.map(({ reference }) => reference);
    };

    test('apply makes an image that starts, and its result names it', async () => {
      const result = await json('apply', `${layout}:app`, '--image', NAME);
      assert.ok(isResult(result));
      assert.deepEqual(result.store.containerd, { namespace: 'k8s.io', snapshotter: 'overlayfs' });
      assert.deepEqual(result.images[0]?.names, [
        NAME,
        `registry.example.com/team/app@${image.manifestDigest}`,
        image.configDigest,
      ]);
      assert.equal(result.images[0]?.chainId, image.chainId);
      await daemon.collect();
      const started = ['run', '--rm', '--snapshotter', 'overlayfs', NAME, 'c1', ...LIST_DATA];
      assert.equal(await daemon.ctr('k8s.io', ...started), dataOf());
      const again = await run('apply', `${layout}:app`, '--image', NAME);
      assert.equal(again.stderr, '');
      assert.match(again.stdout, new RegExp(`^ +image ${NAME}$`, 'm'));
      assert.match(again.stdout, /existed/);
      assert.doesNotMatch(again.stdout, /applied/);
      assert.match(again.stdout, /^store .*\(overlayfs of containerd, namespace k8s.io\)$/m);
    });

    test('apply needs a name that containerd can have', async () => {
      const none = await run('apply', `${layout}:app`);
      assert.match(none.stderr, /^unpackd: \[USAGE\] [^\n]*--image NAME[^\n]*\n$/);
      assert.equal(none.status, 2);
      const wrong = await run('apply', `${layout}:app`, '--image', 'Team/App:1');
      assert.match(wrong.stderr, /^unpackd: \[INVALID_JOB\] [^\n]*write docker.io\/team\/app:1\n$/);
      assert.equal(wrong.status, 1);
      const digest = `registry.example.com/x@${other.manifestDigest}`;
      const another = await run('apply', `${layout}:app`, '--image', digest);
      assert.match(another.stderr, /\[INVALID_JOB\] [^\n]*has the digest sha256:/);
      assert.equal((await references()).includes(digest), false);
    });

    test('images ls and inspect show it with its users', async () => {
      await daemon.ctr('k8s.io', 'run', '--detach', '--snapshotter', 'overlayfs', NAME, 'c2');
      const { stdout, stderr } = await run('images', 'ls');
      assert.equal(stderr, '');
      assert.match(stdout, new RegExp(`^${NAME} +${PLATFORM} +${image.manifestDigest} .* in use$`, 'm'));
      const { images } = await json('images', 'inspect', 'registry.example.com/team/app');
      assert.deepEqual([images[0].reference, images[0].usedBy], [NAME, ['c2']]);
      assert.equal(images[0].layers.length, image.layers.length);
      assert.ok(images[0].layers.every(({ size }: { size?: object }) => size !== undefined));
      await daemon.ctr('k8s.io', 'task', 'kill', '--signal', '9', 'c2');
      await daemon.ctr('k8s.io', 'task', 'delete', '--force', 'c2');
      await daemon.ctr('k8s.io', 'container', 'delete', 'c2');
      const { stdout: config } = await run('images', 'inspect', NAME, '--document', 'config');
      assert.equal(config, image.blobs.get(image.configDigest)?.toString());
    });

    test('snapshots ls, stat, usage and mounts show the layers', async () => {
      const { snapshots } = await json('snapshots', 'ls', '--kind', 'committed');
      assert.equal(snapshots.length, image.layers.length);
      for (const { images, size } of snapshots) assert.ok(images[0] === NAME && size.inodes > 0);
      const { labels } = await json('snapshots', 'stat', image.chainId);
      assert.equal(labels['containerd.io/snapshot.ref'], image.chainId);
      const { total } = await json('snapshots', 'usage');
      assert.ok(total.bytes > 100_000);
      const { mounts } = await json('snapshots', 'mounts', image.chainId);
      assert.ok(mounts[0].options.some((option: string) => option.includes(join(daemon.directory, 'root'))));
    });

    test('snapshots mount keeps a snapshot until umount, and writes beside it', async () => {
      const at = join(folder.path, 'mounted');
      assert.equal((await run('snapshots', 'mount', image.chainId, at, '--writable')).stderr, '');
      writeFileSync(join(at, 'data/word'), 'changed');
      await daemon.collect();
      assert.equal(readFileSync(join(at, 'data/kept/file'), 'utf8'), 'kept');
      assert.equal((await run('snapshots', 'umount', at)).stderr, '');
      const { snapshots } = await json('snapshots', 'ls');
      assert.equal(snapshots.length, image.layers.length);
    });

    test('images pin sets the label of the kubelet, and rm refuses then', async () => {
      assert.match((await run('images', 'pin', 'registry.example.com/team/app')).stdout, /^pinned image /);
      const { image: pinned } = await daemon.client('k8s.io').images.Get({ name: NAME });
      assert.equal(pinned?.labels['io.cri-containerd.pinned'], 'pinned');
      assert.match((await run('images', 'ls')).stdout, / pinned$/m);
      // the CRI service of 1.6 knows no pins
      const { images: shown } = await new Cri(daemon).images.ListImages({});
      assert.equal(shown.find(({ id }) => id === image.configDigest)?.pinned, isSince(program.version, '2.0'));
      assert.match((await run('images', 'rm', NAME)).stderr, /\[IMAGE_PINNED\]/);
      assert.match((await run('images', 'unpin', NAME)).stdout, /^unpinned image /);
    });

    test("what is containerd's is refused with a sentence", async () => {
      for (const args of [
        ['gc', '--until', '10%'],
        ['gc', '--until', '10%', '--dry-run'],
        ['snapshots', 'rm', image.chainId],
      ]) {
        const { status, stderr } = await run(...args);
        assert.match(stderr, /^unpackd: \[USAGE\] [^\n]* is containerd's if UNPACK_SNAPSHOTTER=containerd: [^\n]+\n$/);
        assert.equal(status, 2);
      }
      for (const args of [['backup', join(folder.path, 'copy')], ['recover']]) {
        assert.match((await run('snapshots', ...args)).stderr, /\[INVALID_SETTING\] [^\n]* needs a store of our own/);
      }
      assert.match((await run('snapshots', 'cleanup')).stdout, /^nothing to remove\n$/);
    });

    test('an image without layers is recorded', async () => {
      const result = await json('apply', `${layout}:empty`, '--image', 'empty');
      assert.equal(result.images[0].names[0], 'docker.io/library/empty:latest');
      assert.ok((await references()).includes('docker.io/library/empty:latest'));
      assert.equal((await run('images', 'rm', 'empty')).status, 0);
    });

    test('images rm lets containerd collect what no other image has', async () => {
      await json('apply', `${layout}:other`, '--image', 'registry.example.com/other');
      const { removed } = await json('images', 'rm', NAME);
      assert.deepEqual(removed, [{ reference: NAME, platform: PLATFORM, manifestDigest: image.manifestDigest }]);
      const { snapshots } = await json('snapshots', 'ls');
      assert.equal(snapshots.length, other.layers.length);
      assert.match((await run('images', 'rm', 'registry.example.com/other')).stdout, /^removed image /);
      assert.deepEqual((await json('snapshots', 'ls')).snapshots, []);
      assert.deepEqual(await references(), []);
    });
  });
}
