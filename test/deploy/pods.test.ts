import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { freePort } from '../../dev/local-programs.ts';
import { loadConfig } from '../../src/config.ts';
import { UnpackQueue } from '../../src/queue/producer.ts';
import { Cri, type Pod } from '../containerd/cri.ts';
import { Daemon, PROGRAMS, skipWithoutContainers } from '../containerd/daemon.ts';
import { appImage, dataOf, LIST_DATA, pauseImage } from '../containerd/images.ts';
import { LayoutRegistry } from '../containerd/layout-registry.ts';
import { chainOf, type Stage, stage } from '../e2e/stage.ts';
import { BUCKET } from '../support/bucket.ts';
import { eventually } from '../support/eventually.ts';
import { imageOf, layerOf, type TestImage, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { referenceTrees } from '../support/store-trees.ts';
import { device, directory, fifo, file, hardlink, opaque, symlink, tar, whiteout } from '../support/tar.ts';
import { type ContainerImage, containerImage } from './container-image.ts';
import { containerOf } from './kubelet.ts';
import { type FOLDERS, manifest, manifestsOf, skipWithoutKustomize } from './manifests.ts';

/**
 * The pods of deploy/kubernetes in a containerd, as a kubelet starts them: with the capabilities, the user, the read-only root file
 * system, the seccomp profile, the mounts and the memory of the manifest. They have the network of this machine.
 */

const LIMIT = 120_000;
const NODE = 'node-1';
const SETTINGS = { UNPACK_BOARD_USER: 'admin', UNPACK_BOARD_PASSWORD: 'secret' };
const program = PROGRAMS.at(-1);

/** An image with what needs a capability each: owners, modes, devices, file capabilities, whiteouts, trusted attributes. */
const everyKind = (): TestImage =>
  imageOf([
    layerOf(
      tar(
        directory('data', { mode: 0o2750, uid: 7, gid: 8 }),
        file('data/setuid', 'runs as its owner', { mode: 0o4755, uid: 7, gid: 8 }),
        file('data/setgid', 'runs as its group', { mode: 0o2755, uid: 0, gid: 8 }),
        file('data/closed', 'nobody may read it', { mode: 0, uid: 1000 }),
        directory('data/foreign', { mode: 0o555, uid: 1000 }),
        file('data/foreign/file', 'in a directory that its owner may not write'),
        device('data/null', 'c', 1, 3),
        device('data/disk', 'b', 7, 0),
        fifo('data/pipe'),
        file('data/old', 'deleted by the next layer'),
        directory('data/hidden'),
        file('data/hidden/below', 'hidden by the next layer'),
      ),
    ),
    layerOf(
      tar(
        whiteout('data/old'),
        directory('data/hidden', { uid: 9 }),
        opaque('data/hidden'),
        file('data/first', 'two names'),
        hardlink('data/second', 'data/first'),
        symlink('data/link', 'closed'),
      ),
      'zstd',
    ),
  ]);

describe('a pod of deploy/kubernetes', { skip: skipWithoutContainers() || skipWithoutKustomize() }, () => {
  const place = scratch();
  let registry: LayoutRegistry;
  let daemon: Daemon;
  let cri: Cri;
  let image: ContainerImage;

  before(async () => {
    image = await containerImage(place.path);
    const layouts = { unpackd: image.layout, pause: join(place.path, 'pause') };
    await writeLayout(layouts.pause, { v1: pauseImage() });
    registry = await LayoutRegistry.start(layouts);
    if (program === undefined) throw new Error('there is no containerd');
    daemon = await Daemon.start(program, { containers: { pauseImage: `${registry.address}/pause:v1` } });
    cri = new Cri(daemon);
    await cri.ready();
    for (const name of ['pause', 'unpackd']) {
      await cri.images.PullImage({ image: { image: `${registry.address}/${name}:v1` } });
    }
  });
  after(async () => {
    await daemon[Symbol.asyncDispose]();
    await registry[Symbol.asyncDispose]();
    place[Symbol.dispose]();
  });

  /** Starts the pod of a manifest, and waits until its probe answers. */
  async function start(
    s: Stage,
    folder: (typeof FOLDERS)[number],
    kind: 'DaemonSet' | 'Deployment',
    more: Readonly<Record<string, string>> = {},
  ): Promise<RunningPod> {
    const port = await freePort();
    const settings = {
      REDIS_URL: s.redis.url,
      S3_ENDPOINT: s.proxy.endpoint,
      AWS_REGION: s.bucket.server.region,
      AWS_ACCESS_KEY_ID: s.bucket.server.accessKeyId,
      AWS_SECRET_ACCESS_KEY: s.bucket.server.secretAccessKey,
      ...SETTINGS,
      ...more,
    };
    // the network is that of this machine, so the port must be free; the containerd of the test has other directories
    const change = (text: string) =>
      text
        .replaceAll(/\b(9100|3000)\b/g, String(port))
        .replaceAll('/var/lib/containerd', join(daemon.directory, 'root'))
        .replaceAll('/run/containerd', daemon.directory);
    const manifests = manifestsOf(folder, settings, change);
    const { spec } = manifest(manifests, kind);
    const podSpec = spec?.template.spec;
    if (podSpec === undefined) throw new Error(`the ${kind} has no pod`);
    const container = containerOf(podSpec, manifests, {
      name: NODE,
      image: `${registry.address}/unpackd:v1`,
      hostPath: (path) => (path === '/var/lib/unpackd' ? s.root : path),
      volumes: join(place.path, `volumes-${port}`),
    });
    const mounts = [...(container.mounts ?? []), ...image.mounts];
    const pod = await cri.start({ ...container, mounts }, podSpec.hostPID === true ? 'NODE' : 'CONTAINER');
    const url = `http://127.0.0.1:${port}`;
    const path = podSpec.containers[0]?.readinessProbe?.httpGet?.path ?? '';
    await eventually(`${kind} of ${folder} is ready`, async () => {
      if ((await pod.state()) !== 'CONTAINER_RUNNING') throw new Error(`the container has ended: ${pod.log()}`);
      return fetch(`${url}${path}`).then(
        ({ ok }) => ok,
        () => false,
      );
    });
    return { pod, url, grace: podSpec.terminationGracePeriodSeconds ?? 30 };
  }

  it('of a worker unpacks every kind of file with seven capabilities, and ends with status 0 on SIGTERM', async () => {
    await using s = await stage();
    const content = everyKind();
    await s.push('app', { app: content });
    const { pod, url, grace } = await start(s, 'base', 'DaemonSet');
    const result = await s.queue.wait(await s.queue.add(s.payload('app')), { timeout: LIMIT });
    assert.equal(result.worker.name, NODE);
    assert.deepEqual(await s.stored(), await referenceTrees({ app: content }));
    const status = await pod.exec('cat', '/proc/1/status');
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SYS_ADMIN, MKNOD, SETFCAP
    assert.match(status, /^CapEff:\t000000008820001b$/m);
    assert.match(status, /^Seccomp:\t2$/m);
    await assert.rejects(pod.exec('touch', '/app/file'), /Read-only file system/);
    for (const path of ['healthz', 'readyz', 'metrics'])
      assert.equal((await fetch(`${url}/${path}`)).status, 200, path);
    assert.equal(await pod.stop(grace), 0, pod.log());
    await pod.remove();
  });

  it('of a worker passes unpackd doctor, and runs the other commands', async () => {
    await using s = await stage({ persistent: true });
    const content = everyKind();
    await s.push('app', { app: content });
    const { pod } = await start(s, 'base', 'DaemonSet');
    const told = await pod.exec('unpackd', 'doctor', '--bucket', BUCKET);
    assert.doesNotMatch(told, /^(FAIL|warn)/m);
    assert.match(told, /^ok +Permissions: root, with every capability/m);
    const { id } = await s.queue.add(s.payload('app'));
    await s.queue.wait(id, { timeout: LIMIT });
    assert.match(await pod.exec('unpackd', 'status', id), /sha256:/);
    assert.match(await pod.exec('unpackd', 'images', 'ls'), /registry\.example\/app:app/);
    assert.doesNotMatch(await pod.exec('unpackd', 'images', 'rm', 'registry.example/app:app'), /can't be removed/);
    await s.assertClean([]);
    await pod.remove();
  });

  it('of a worker that is killed in the middle of a job leaves it to the next pod, which has the same process ID', async () => {
    await using s = await stage();
    const content = everyKind();
    await s.push('app', { app: content });
    const top = content.layers.at(-1)?.blob.digest.slice('sha256:'.length) ?? '';
    s.proxy.rules([{ fault: { kind: 'stall', afterBytes: 0 }, when: ({ key }) => key.endsWith(top) }]);
    const first = await start(s, 'base', 'DaemonSet', { UNPACK_LOCK: '5s' });
    const job = await s.queue.add(s.payload('app'));
    await eventually('the layer is being written', () => s.locks().length > 0);
    assert.equal(await first.pod.stop(0), 128 + 9);
    await first.pod.remove();
    s.proxy.rules([]);
    const { pod } = await start(s, 'base', 'DaemonSet', { UNPACK_LOCK: '5s' });
    await s.queue.wait(job, { timeout: LIMIT });
    assert.deepEqual(await s.stored(), await referenceTrees({ app: content }));
    await s.assertClean(chainOf(content));
    await pod.remove();
  });

  it('of a worker with containerd makes an image from which the next pod starts', async () => {
    await using s = await stage();
    const content = appImage('unpacked in a pod');
    await s.push('app', { app: content });
    const { pod, grace } = await start(s, 'containerd', 'DaemonSet', {
      UNPACK_CONTAINERD_SOCKET: daemon.socket,
      UNPACK_CONTAINERD_NAMESPACE: 'k8s.io',
    });
    const queue = new UnpackQueue(loadConfig({ REDIS_URL: s.redis.url, UNPACK_QUEUE: NODE }, {}));
    await queue.wait(await queue.add(s.payload('app')), { timeout: LIMIT }).finally(() => queue.close());
    assert.doesNotMatch(await pod.exec('unpackd', 'doctor', '--bucket', BUCKET), /^FAIL/m);
    const other = await cri.startPod('registry.example/app:app', []);
    assert.equal(await other.exec(...LIST_DATA), dataOf('unpacked in a pod'));
    await other.remove();
    assert.equal(await pod.stop(grace), 0, pod.log());
    await pod.remove();
  });

  it('of the board serves its pages to those who know the password, as a user without capabilities', async () => {
    await using s = await stage();
    const { pod, url, grace } = await start(s, 'base', 'Deployment');
    const status = await pod.exec('cat', '/proc/1/status');
    assert.match(status, /^Uid:\t1000\t1000\t/m);
    assert.match(status, /^CapEff:\t0+$/m);
    assert.match(status, /^NoNewPrivs:\t1$/m);
    await assert.rejects(pod.exec('touch', '/app/file'), /Read-only file system/);
    assert.equal((await fetch(`${url}/healthz`)).status, 200);
    assert.equal((await fetch(url)).status, 401);
    const authorization = `Basic ${Buffer.from('admin:secret').toString('base64')}`;
    for (const path of ['', '/jobs?state=failed', '/workers', '/images', '/queue', '/bull', '/metrics']) {
      assert.equal((await fetch(`${url}${path}`, { headers: { authorization } })).status, 200, path);
    }
    assert.equal(await pod.stop(grace), 0, pod.log());
    await pod.remove();
  });
});

interface RunningPod {
  readonly pod: Pod;
  readonly url: string;
  /** Seconds. */
  readonly grace: number;
}
