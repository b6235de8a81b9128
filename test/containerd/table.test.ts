import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type TestImage, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { Adopter } from './adopter.ts';
import { Cri, type CriImage, type Pod } from './cri.ts';
import { type ContainerdProgram, Daemon, isSince, PROGRAMS, skipWithoutContainers } from './daemon.ts';
import { appImage, dataOf, LIST_DATA, layerBytes, pauseImage } from './images.ts';
import { LayoutRegistry } from './layout-registry.ts';

/**
 * What an unmodified containerd does with images that unpackd has unpacked: start containers of them, list them, and pull
 * them. The registry has the same images, and counts what is pulled all the same.
 */
const IMAGES: Readonly<Record<string, TestImage>> = {
  pause: pauseImage(),
  app: appImage('app'),
  // one for each pull that may fetch its layers, because containerd keeps what it has fetched
  pulled: appImage('pulled'),
  local: appImage('local'),
};

for (const program of PROGRAMS)
  describe(`containerd ${program.version}`, { skip: skipWithoutContainers() }, () => table(program));

function table(program: ContainerdProgram): void {
  const place = scratch();
  let registry: LayoutRegistry;
  let daemon: Daemon;
  let cri: Cri;
  let pod: Pod;

  const nameOf = (repository: string) => `${registry.address}/${repository}:v1`;
  const run = (id: string, image: string) =>
    daemon.ctr('default', 'run', '--rm', '--cgroup', `${daemon.cgroup}/${id}`, image, id, ...LIST_DATA);

  async function adoptInto(namespace: string): Promise<void> {
    const address = { socket: daemon.socket, namespace, snapshotter: 'overlayfs' };
    await using adopter = await Adopter.open({ ...address, stateRoot: join(place.path, 'state'), durable: false });
    for (const repository of Object.keys(IMAGES)) {
      await adopter.adopt(join(place.path, repository), 'v1', nameOf(repository));
    }
  }

  before(async () => {
    const layouts = Object.keys(IMAGES).map((repository) => [repository, join(place.path, repository)] as const);
    for (const [repository, layout] of layouts) {
      const image = IMAGES[repository];
      if (image !== undefined) await writeLayout(layout, { v1: image });
    }
    registry = await LayoutRegistry.start(Object.fromEntries(layouts));
    daemon = await Daemon.start(program, { containers: { pauseImage: nameOf('pause') } });
    cri = new Cri(daemon);
    await cri.ready();
    for (const namespace of ['k8s.io', 'default']) await adoptInto(namespace);
    await daemon.collect();
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
    await registry[Symbol.asyncDispose]();
    place[Symbol.dispose]();
  });

  it('ctr run starts a container, which sees the files of all layers', async () => {
    assert.equal(await run('first', nameOf('app')), dataOf('app'));
    assert.equal(registry.takeLayerBytes('app'), 0);
  });

  it('CRI lists the image with its tag and its digest', async () => {
    await listed();
  });

  it('CRI starts a pod and a container', async () => {
    pod = await cri.startPod(nameOf('app'), []);
    assert.equal(await pod.exec(...LIST_DATA), dataOf('app'));
    for (const repository of ['pause', 'app']) assert.equal(registry.takeLayerBytes(repository), 0);
  });

  it('CRI pulls the image and fetches no layer', async () => {
    const { digest } = appOf().manifest;
    for (const image of [nameOf('app'), `${registry.address}/app@${digest}`]) {
      assert.equal((await cri.images.PullImage({ image: { image } })).imageRef, appOf().configDigest);
    }
    assert.equal(registry.takeLayerBytes('app'), 0);
    await listed();
  });

  for (const [how, again] of Object.entries({
    'after a restart of containerd': () => daemon.restart(),
    'after containerd was killed': () => daemon.kill().then(() => daemon.start()),
  })) {
    it(`${how} the image is listed, the pod runs, and new containers start`, async () => {
      await again();
      await cri.ready();
      await daemon.collect();
      await listed();
      assert.equal(await pod.state(), 'CONTAINER_RUNNING');
      assert.equal(await pod.exec(...LIST_DATA), dataOf('app'));
      const other = await cri.startPod(nameOf('app'), []);
      assert.equal(await other.exec(...LIST_DATA), dataOf('app'));
      await other.remove();
      assert.equal(await run('again', nameOf('app')), dataOf('app'));
      for (const repository of ['pause', 'app']) assert.equal(registry.takeLayerBytes(repository), 0);
    });
  }

  // 1.6 fetches the blobs before it looks for snapshots
  pulls('pulled', isSince(program.version, '2.0') ? 'none' : 'all');
  // with --local, ctr fetches all content before it unpacks; seen with 1.6, 2.1, 2.2 and 2.4 (beta)
  pulls('local', 'all', '--local');

  function pulls(repository: string, layers: 'all' | 'none', ...options: readonly string[]): void {
    // 1.6 pulls as --local does, and has no such option
    const given = isSince(program.version, '2.0') ? options : [];
    it(`${['ctr images pull', ...options].join(' ')} fetches ${layers} of the layers, and the image works`, async () => {
      await daemon.ctr('default', 'images', 'pull', '--plain-http', ...given, nameOf(repository));
      const image = IMAGES[repository];
      assert.equal(
        registry.takeLayerBytes(repository),
        image === undefined || layers === 'none' ? 0 : layerBytes(image),
      );
      assert.equal(await run('pulled', nameOf(repository)), dataOf(repository));
    });
  }

  it('the pod ends, and the image stays', async () => {
    await pod.remove();
    await daemon.collect();
    await listed();
    assert.equal(await run('last', nameOf('app')), dataOf('app'));
  });

  async function listed(): Promise<void> {
    const { images } = await cri.images.ListImages({});
    const found = images.find(({ id }) => id === appOf().configDigest);
    const { repoTags, repoDigests, pinned }: Partial<CriImage> = found ?? {};
    assert.deepEqual(
      { repoTags, repoDigests, pinned },
      { repoTags: [nameOf('app')], repoDigests: [`${registry.address}/app@${appOf().manifest.digest}`], pinned: false },
    );
  }
}

function appOf(): TestImage {
  const { app } = IMAGES;
  if (app === undefined) throw new Error('there is no such image');
  return app;
}
