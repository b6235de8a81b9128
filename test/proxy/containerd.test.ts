import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { chmodSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { loadConfig, unpackSettings } from '../../src/config.ts';
import { createUnpacker } from '../../src/image/unpacker.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import type { SnapshotInfo } from '../../src/snapshots/snapshotter.ts';
import type { OwnStore } from '../../src/snapshots/store.ts';
import { runCli } from '../cli/run-cli.ts';
import { Cri, type Pod } from '../containerd/cri.ts';
import { type ContainerdProgram, Daemon, isSince, PROGRAMS, skipWithoutContainers } from '../containerd/daemon.ts';
import { appImage, dataOf, LIST_DATA, pauseImage } from '../containerd/images.ts';
import { LayoutRegistry } from '../containerd/layout-registry.ts';
import { eventually } from '../support/eventually.ts';
import { type TestImage, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { SnapshotterProcess } from './served.ts';
import { servedConfiguration } from './served-machine.ts';

/** An unmodified containerd that uses a store of unpackd as a proxy snapshotter, with layers that were unpacked ahead. */
const IMAGES: Readonly<Record<string, TestImage>> = {
  pause: pauseImage(),
  app: appImage('app'),
  pulled: appImage('pulled'),
  local: appImage('local'),
  cri: appImage('cri'),
  removed: appImage('removed'),
  digest: appImage('digest'),
};
/** Verbs of `ctr snapshots`, one after the other, also those that must fail. */
const VERBS: readonly (readonly string[])[] = [
  ['prepare', 'first'],
  ['prepare', 'first'],
  ['mounts', '/mnt', 'first'],
  ['usage', 'first'],
  ['label', 'first', 'a=b'],
  ['commit', 'base', 'first'],
  ['commit', 'base', 'none'],
  ['mounts', '/mnt', 'base'],
  ['commit', 'other', 'base'],
  ['label', 'base', 'c=d'],
  ['info', 'base'],
  ['info', 'none'],
  ['view', 'look', 'base'],
  ['view', 'look', 'none'],
  ['mounts', '/mnt', 'look'],
  ['prepare', '--target', '/mnt', 'second', 'base'],
  ['prepare', 'third', 'second'],
  ['usage', 'base', 'look'],
  ['ls'],
  ['tree'],
  ['rm', 'base'],
  ['rm', 'second', 'look'],
  ['rm', 'base'],
  ['rm', 'base'],
  ['ls'],
];
/** containerd prints labels and mount options in any order. */
const sorted = (text: string): string =>
  text
    .split('\n')
    .map((line) =>
      line
        .split(/([ ,])/)
        .filter((part) => !/^[ ,]?$/.test(part))
        .sort()
        .join(' '),
    )
    .join('\n');
/** One that nobody has unpacked ahead. */
const FOREIGN = appImage('foreign');

for (const program of PROGRAMS)
  describe(`containerd ${program.version} with a store of unpackd`, { skip: skipWithoutContainers() }, () =>
    uses(program),
  );

function uses(program: ContainerdProgram): void {
  const place = scratch();
  const root = join(place.path, 'store');
  const socket = join(place.path, 'snapshotter.sock');
  let registry: LayoutRegistry;
  let server: SnapshotterProcess;
  let daemon: Daemon;
  let cri: Cri;
  let pod: Pod;

  const nameOf = (repository: string) => `${registry.address}/${repository}:v1`;
  const run = (id: string, image: string) =>
    ctr('run', '--rm', '--snapshotter', 'unpackd', '--cgroup', `${daemon.cgroup}/${id}`, image, id, ...LIST_DATA);
  const ctr = (...args: readonly string[]) => daemon.ctr('default', ...args);
  const pull = (repository: string, ...options: readonly string[]) =>
    ctr('images', 'pull', '--plain-http', '--snapshotter', 'unpackd', ...options, nameOf(repository));

  async function register(image: string, namespace: string): Promise<void> {
    const { status, stderr } = await runCli([
      ...['images', 'register', image, '--root', root],
      ...['--containerd-socket', daemon.socket, '--containerd-namespace', namespace],
    ]);
    assert.equal(status, 0, stderr);
  }

  async function looking<T>(look: (store: OwnStore) => Promise<T>): Promise<T> {
    const store = await openSnapshotter({ root, type: 'overlay' });
    try {
      return await look(store);
    } finally {
      await store.close();
    }
  }

  /** Waits until containerd connects to the snapshotter again, after its pause. */
  const connected = () =>
    eventually('containerd uses the snapshotter again', async () => {
      return (await daemon.tryCtr('default', 'snapshots', '--snapshotter', 'unpackd', 'ls')).status === 0;
    });

  const unpack = (repositories: readonly string[]) =>
    looking(async (store) => {
      const unpacker = createUnpacker(store, { ...unpackSettings(loadConfig({}, {})), threads: 2 });
      for (const repository of repositories) {
        const source = { kind: 'oci-layout', path: join(place.path, repository) } as const;
        const request = { target: { kind: 'tag', tag: 'v1' } } as const;
        const found = await unpacker.lookUp({ image: nameOf(repository), source, request });
        await unpacker.unpack(found);
      }
      await unpacker.close();
    });

  const infos = () => looking((store) => store.walk());
  /** Committed snapshots that containerd has made. */
  const extracted = (all: readonly SnapshotInfo[]) =>
    all.filter(({ kind, claim }) => kind === 'committed' && claim === 'made').map(({ name }) => name);
  const claimOf = (all: readonly SnapshotInfo[], repository: string) =>
    all.find(({ name }) => name === imageOf(repository).chainId)?.claim;

  before(async () => {
    const layouts = Object.entries({ ...IMAGES, foreign: FOREIGN }).map(
      ([repository, image]) => [repository, join(place.path, repository), image] as const,
    );
    for (const [, layout, image] of layouts) await writeLayout(layout, { v1: image });
    registry = await LayoutRegistry.start(Object.fromEntries(layouts));
    await unpack(Object.keys(IMAGES));
    server = await SnapshotterProcess.start('snapshotter', '--root', root, '--address', socket);
    const configuration = servedConfiguration(root, socket);
    daemon = await Daemon.start(program, { containers: { pauseImage: nameOf('pause') }, configuration });
    cri = new Cri(daemon);
    await cri.ready();
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
    await server.kill();
    await registry[Symbol.asyncDispose]();
    place[Symbol.dispose]();
  });

  it('a registered image starts without a pull', async () => {
    await register(nameOf('app'), 'default');
    assert.equal(await run('registered', nameOf('app')), dataOf('app'));
    assert.equal(registry.takeLayerBytes('app'), 0);
    assert.deepEqual(extracted(await infos()), []);
  });

  it('a container may be read-only, or have a user namespace, for which containerd makes a copy', async () => {
    for (const path of [place.path, daemon.directory]) chmodSync(path, 0o711); // other users come through
    const script = (id: string, text: string, ...options: readonly string[]) =>
      ctr(
        ...['run', '--rm', ...options, '--snapshotter', 'unpackd', '--cgroup', `${daemon.cgroup}/${id}`],
        ...[nameOf('app'), id, '/bin/busybox', 'sh', '-c', text],
      );
    const write = 'echo x 2>/dev/null >/data/new && echo written || echo refused';
    assert.equal(await script('read-only', write, '--read-only'), 'refused\n');
    const look = 'busybox stat -c %u:%g /data /data/kept/file; busybox cat /data/word /proc/self/uid_map';
    const mapped = ['--uidmap', '0:100000:65536', '--gidmap', '0:100000:65536'];
    const seen = (await script('mapped', `${look}; ${write}`, ...mapped)).trim().split(/\s+/);
    assert.deepEqual(seen, ['7:0', '1000:1000', 'app', '0', '100000', '65536', 'written']);
    await daemon.collect();
    assert.deepEqual(extracted(await infos()), [], 'the copy ends with its container');
  });

  it('the verbs of `ctr snapshots` answer as with the overlayfs of containerd', async () => {
    const answers: string[] = [];
    for (const snapshotter of ['unpackd', 'overlayfs']) {
      const lines: string[] = [];
      for (const verb of VERBS) {
        const { status, stdout } = await daemon.tryCtr('verbs', 'snapshots', '--snapshotter', snapshotter, ...verb);
        const plain = stdout
          .replaceAll(/[^\s,:=]+\/snapshots\/\d+\//g, 'ROOT/')
          .replaceAll(/\d{4}-\d\d-\d\dT[^",\s]+/g, 'TIME')
          .replaceAll(/[ \t]+/g, ' ');
        lines.push(`${verb.join(' ')}: ${status}\n${status === 0 ? sorted(plain) : ''}`);
      }
      answers.push(lines.join('\n'));
    }
    assert.equal(answers[0], answers[1]);
  });

  it('an image is registered by a name with a digest, as Docker prints it', async () => {
    const { manifestDigest } = imageOf('digest');
    const byDigest = nameOf('digest').replace(':v1', `@${manifestDigest}`);
    // the reference leads to the digest, so it is the name
    await register(byDigest, 'default');
    assert.equal(await run('by-digest', byDigest), dataOf('digest'));
    assert.equal(await run('by-tag', nameOf('digest')), dataOf('digest'));
    // this repository is not recorded
    const elsewhere = 'registry.example.com/team/digest';
    await register(`${elsewhere}:v2@${manifestDigest}`, 'default');
    assert.equal(await run('elsewhere', `${elsewhere}@${manifestDigest}`), dataOf('digest'));
    const names = await ctr('images', 'ls', '--quiet');
    assert.doesNotMatch(names, /digest:v2/);
    assert.deepEqual(extracted(await infos()), []);
  });

  it('what cannot be registered is refused in one sentence, and leaves nothing', async () => {
    await daemon.collect(); // the container of the test before is removed, and its snapshot possibly not yet
    const before = await infos();
    const refused = async (message: RegExp, ...args: readonly string[]) => {
      const all = ['--root', root, '--containerd-socket', daemon.socket, '--containerd-namespace', 'default', ...args];
      const { status, stderr } = await runCli(['images', 'register', ...all]);
      assert.notEqual(status, 0);
      assert.match(stderr, message);
      assert.doesNotMatch(stderr.trim(), /\n/);
    };
    await refused(/\[IMAGE_NOT_FOUND\] .* has no image "nothing"/, 'nothing');
    await refused(/"s3:\/\/b\/a" cannot be the name of an image/, nameOf('cri'), '--name', 's3://b/a');
    await refused(/has no snapshotter other: add \[proxy_plugins\.other\]/, nameOf('cri'), '--proxy', 'other');
    await refused(
      /\[STORE_FAILED\] the snapshotter overlayfs .* does not have layer/,
      nameOf('cri'),
      '--proxy',
      'overlayfs',
    );
    await refused(/does not answer/, nameOf('cri'), '--containerd-socket', join(place.path, 'nobody.sock'));
    await daemon.collect();
    assert.deepEqual(
      (await infos()).map(({ name, claim }) => [name, claim]),
      before.map(({ name, claim }) => [name, claim]),
    );
    assert.doesNotMatch(await ctr('leases', 'ls'), /unpackd-register/);
  });

  // ctr before 2.0, and with --local, does not tell the snapshotter which layer it prepares
  if (isSince(program.version, '2.0')) {
    it('ctr images pull fetches and extracts no layer that was unpacked ahead', async () => {
      await pull('pulled');
      assert.equal(registry.takeLayerBytes('pulled'), 0);
      const all = await infos();
      assert.deepEqual(extracted(all), []);
      assert.equal(claimOf(all, 'pulled'), 'adopted');
      assert.equal(await run('pulled', nameOf('pulled')), dataOf('pulled'));
    });
  }

  it('ctr images pull of a registered image extracts no layer', async () => {
    await register(nameOf('local'), 'default');
    await pull('local', ...(isSince(program.version, '2.0') ? ['--local'] : []));
    assert.deepEqual(extracted(await infos()), []);
    assert.equal(await run('local', nameOf('local')), dataOf('local'));
  });

  it('an image that nobody has unpacked is pulled and extracted as ever, and is synced', async () => {
    await pull('foreign');
    const made = (await infos()).filter(({ kind, claim }) => kind === 'committed' && claim === 'made');
    assert.equal(made.length, FOREIGN.layers.length);
    assert.deepEqual([...new Set(made.map(({ synced }) => synced))], [true]);
    assert.equal(await run('foreign', nameOf('foreign')), dataOf('foreign'));
  });

  it('a pull by CRI extracts no layer that was unpacked ahead', async () => {
    const before = extracted(await infos());
    await cri.images.PullImage({ image: { image: nameOf('cri') } });
    // containerd looks for the layers first
    assert.equal(registry.takeLayerBytes('cri'), 0);
    assert.deepEqual(extracted(await infos()), before);
  });

  it('a collection of containerd removes no layer, whether it knows it or not', async () => {
    const layers = async () => (await infos()).filter(({ kind }) => kind === 'committed').map(({ name }) => name);
    const before = await layers();
    await daemon.collect();
    assert.deepEqual(await layers(), before);
    assert.equal(await run('collected', nameOf('app')), dataOf('app'));
  });

  it('unpackd removes nothing that containerd knows, and names containerd', async () => {
    const { status, stdout } = await runCli(['images', 'rm', nameOf('local'), '--root', root]);
    assert.equal(status, 0);
    assert.match(stdout, /can't be removed: containerd uses it; remove its image \(ctr images rm, crictl rmi\)/);
    assert.equal(await run('kept', nameOf('local')), dataOf('local'));
  });

  it('after ctr images rm the claim ends, the layers stay, and unpackd may remove them', async () => {
    await register(nameOf('removed'), 'default');
    assert.equal(claimOf(await infos(), 'removed'), 'adopted');
    await ctr('images', 'rm', nameOf('removed'));
    for (const name of (await ctr('images', 'ls', '-q')).split('\n')) {
      const { configDigest, manifestDigest } = imageOf('removed');
      if (name === configDigest || name.endsWith(`@${manifestDigest}`)) await ctr('images', 'rm', name);
    }
    await daemon.collect();
    const all = await infos();
    assert.equal(claimOf(all, 'removed'), undefined);
    assert.ok(all.some(({ name }) => name === imageOf('removed').chainId));
    await looking((store) => store.remove(imageOf('removed').chainId));
  });

  it('CRI starts a pod from registered images, and pulls no layer', async () => {
    for (const repository of ['pause', 'app']) await register(nameOf(repository), 'k8s.io');
    pod = await cri.startPod(nameOf('app'), []);
    assert.equal(await pod.exec(...LIST_DATA), dataOf('app'));
    assert.equal(
      (await cri.images.PullImage({ image: { image: nameOf('app') } })).imageRef,
      imageOf('app').configDigest,
    );
    for (const repository of ['pause', 'app']) assert.equal(registry.takeLayerBytes(repository), 0);
  });

  for (const [how, again] of Object.entries({
    'a restart of the snapshotter': async () => {
      assert.equal(await server.stop(), 0, server.log);
      server = await server.again();
    },
    'the death of the snapshotter': async () => {
      await server.kill();
      server = await server.again();
    },
    'the death of both, and a /run that is empty': async () => {
      await daemon.kill();
      await server.kill();
      for (const path of [socket, `${socket}.lock`]) rmSync(path, { force: true });
      server = await server.again();
      await daemon.start();
      await cri.ready();
    },
    // CRI forgets the images whose snapshots it cannot see when it starts
    'a containerd that starts before the snapshotter, once the images are registered again,': async () => {
      await daemon.kill();
      assert.equal(await server.stop(), 0, server.log);
      await daemon.start();
      await cri.ready();
      server = await server.again();
      await connected();
      for (const repository of ['pause', 'app']) await register(nameOf(repository), 'k8s.io');
      await eventually('CRI knows the image', async () => {
        const { images } = await cri.images.ListImages({});
        return images.some(({ repoTags }) => repoTags.includes(nameOf('app')));
      });
    },
  })) {
    it(`${how} does no harm to containers, and new ones start`, async () => {
      await again();
      assert.equal(await pod.state(), 'CONTAINER_RUNNING');
      assert.equal(await pod.exec(...LIST_DATA), dataOf('app'));
      await connected();
      assert.equal(await run('again', nameOf('app')), dataOf('app'));
      await daemon.collect();
      assert.equal(await pod.exec(...LIST_DATA), dataOf('app'));
      const cleaned = await runCli(['snapshots', 'cleanup', '--root', root]);
      assert.equal(cleaned.status, 0, cleaned.stderr);
      assert.equal(await pod.exec(...LIST_DATA), dataOf('app'));
      const other = await cri.startPod(nameOf('app'), []);
      assert.equal(await other.exec(...LIST_DATA), dataOf('app'));
      await other.remove();
    });
  }

  it('the last container leaves no snapshot of containers', async () => {
    await pod.remove();
    await daemon.collect();
    assert.deepEqual(
      (await infos()).filter(({ kind }) => kind !== 'committed'),
      [],
    );
  });

  it('after the store was lost and made again, what can start is registered, and the rest is named', async () => {
    assert.equal(await server.stop(), 0, server.log);
    rmSync(root, { recursive: true });
    server = await server.again();
    await unpack(['app', 'foreign']);
    await connected();
    // containerd knew this one by its chain ID
    await register(nameOf('app'), 'default');
    assert.equal(claimOf(await infos(), 'app'), 'adopted');
    assert.equal(await run('again-made', nameOf('app')), dataOf('app'));
    // and this one by the name of the snapshot that it had made
    const where = ['--containerd-socket', daemon.socket, '--containerd-namespace', 'default'];
    const { status, stderr } = await runCli(['images', 'register', nameOf('foreign'), '--root', root, ...where]);
    assert.equal(status, 1);
    assert.match(
      stderr,
      /^unpackd: \[STORE_FAILED\] containerd at .* has lost it: remove the images with this layer in/,
    );
    await ctr('images', 'rm', '--sync', nameOf('foreign'));
    await register(nameOf('foreign'), 'default');
    assert.equal(await run('registered-again', nameOf('foreign')), dataOf('foreign'));
  });
}

function imageOf(repository: string): TestImage {
  const image = IMAGES[repository];
  if (image === undefined) throw new Error(`there is no image ${repository}`);
  return image;
}
