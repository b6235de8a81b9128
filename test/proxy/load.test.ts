import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { runCli } from '../cli/run-cli.ts';
import { PROGRAMS, skipWithoutContainers } from '../containerd/daemon.ts';
import { appImage, dataOf, LIST_DATA } from '../containerd/images.ts';
import { eventually } from '../support/eventually.ts';
import { scratch } from '../support/scratch.ts';
import { unpackAll } from '../support/store-trees.ts';
import { ServedMachine, succeeded } from './served-machine.ts';

const CONTAINERS = 50;
/** Images that containerd does not know, so that a collection of unpackd has something to remove. */
const SPARE = ['spare-0', 'spare-1', 'spare-2'];
const IMAGES = Object.fromEntries(['app', ...SPARE].map((tag) => [tag, appImage(tag)]));
const KILLS = 3;
/** A command that fails if the files of the image are not as they must be. `ctr tasks exec` sometimes loses what a command prints. */
const HAS_DATA = [
  ...LIST_DATA.slice(0, -1),
  `[ "$(${LIST_DATA.at(-1)})" = "$1" ] && [ -x /bin/busybox ]`,
  'sh',
  dataOf('app').trimEnd(),
];

describe('many containers from a served store', { skip: skipWithoutContainers() }, () => {
  it('start while the snapshotter is killed and unpackd collects, and keep their layers', async () => {
    const program = PROGRAMS.at(-1);
    assert.ok(program);
    using place = scratch();
    const root = join(place.path, 'store');
    await using machine = await ServedMachine.start(program, {
      root,
      place: place.path,
      images: IMAGES,
      containers: { pauseImage: 'none' },
    });
    await unpackAll(root, 'overlay', machine.layout, Object.keys(IMAGES), { durable: true });
    succeeded(await machine.register('app'));

    const start = async (id: string) => {
      const args = machine.runArgs(id, 'app', ['/bin/busybox', 'sleep', 'infinity'], '--detach');
      // a start that needs the snapshotter while it is away fails, and is tried again, as by a kubelet
      await eventually(`${id} runs`, async () => {
        if ((await machine.tryCtr(...args)).status === 0) return true;
        await machine.tryCtr('containers', 'rm', id);
        return false;
      });
    };
    const ids = Array.from({ length: CONTAINERS }, (_, number) => `many-${number}`);
    let over = false;
    const starting = Promise.all(ids.map(start)).finally(() => {
      over = true;
    });
    const collecting = (async () => {
      while (!over) await runCli(['gc', '--until', '99%', '--root', root]);
    })();
    for (let kill = 0; kill < KILLS; kill++) {
      await eventually('some containers run', async () => {
        const { stdout } = await machine.tryCtr('tasks', 'ls', '--quiet');
        return over || stdout.split('\n').length > (kill + 1) * 5;
      });
      await machine.server.kill();
      machine.server = await machine.server.again();
    }
    await starting;
    await collecting;
    // containerd looks for what a failed start has left when a snapshot was removed
    for (const what of ['prepare', 'rm']) await machine.ctr('snapshots', '--snapshotter', 'unpackd', what, 'removed');
    await machine.daemon.collect();
    for (const id of ids) {
      await machine.ctr('tasks', 'exec', '--exec-id', 'look', id, ...HAS_DATA);
    }
    const store = await openSnapshotter({ root, type: 'overlay' });
    try {
      // one that runs for each container, and what the images have; none of a start that failed
      assert.equal((await store.walk({ kind: 'active' })).length, CONTAINERS);
      const layers = (await store.walk({ kind: 'committed' })).map(({ name }) => name);
      assert.equal(layers.length, IMAGES.app?.layers.length, 'the collection has removed the other images');
    } finally {
      await store.close();
    }
  });
});
