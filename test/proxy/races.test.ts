import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadConfig, unpackSettings } from '../../src/config.ts';
import { createUnpacker } from '../../src/image/unpacker.ts';
import { chainIds } from '../../src/oci/digest.ts';
import { LABEL_ROOT } from '../../src/snapshots/containerd/wire.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { isSnapshotError } from '../../src/snapshots/snapshotter.ts';
import { Cri } from '../containerd/cri.ts';
import { PROGRAMS, skipWithoutContainers } from '../containerd/daemon.ts';
import { Random } from '../fuzz/random.ts';
import { imageOf, layerOf, type TestImage } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { referenceTrees, treesOf } from '../support/store-trees.ts';
import { directory, file, opaque, tar, whiteout } from '../support/tar.ts';
import { ServedMachine, succeeded } from './served-machine.ts';

const IMAGES = Object.fromEntries([0, 1, 2, 3].map((number) => [`image-${number}`, imageIn(number)]));
const TAGS = Object.keys(IMAGES);
const ROUNDS = 2;
/** containerd can collect at any time what has neither this label nor a lease: it does after the pulls. */
const KEPT = { [LABEL_ROOT]: 'now' };

for (const program of PROGRAMS) {
  describe(`jobs and pulls of containerd ${program.version} into one store`, { skip: skipWithoutContainers() }, () => {
    it('end right with the same images, and a collection leaves nothing of containerd', async () => {
      using place = scratch();
      const root = join(place.path, 'store');
      await using machine = await ServedMachine.start(program, {
        root,
        place: place.path,
        images: IMAGES,
        containers: { pauseImage: 'none' },
      });
      const cri = new Cri(machine.daemon);
      await cri.ready();
      const store = await openSnapshotter({ root, type: 'overlay' });
      const unpackers = [0, 1].map(() => createUnpacker(store, { ...unpackSettings(loadConfig({}, {})), threads: 2 }));
      const trees = await referenceTrees(IMAGES);

      const unpack = async (tag: string, unpacker: (typeof unpackers)[number]) => {
        const source = { kind: 'oci-layout', path: machine.layout } as const;
        const found = await unpacker.lookUp({ image: tag, source, request: { target: { kind: 'tag', tag } } });
        const [image] = found.existing ?? (await unpacker.unpack(found));
        assert.equal(image?.chainId, IMAGES[tag]?.chainId);
      };
      const random = new Random(1);
      const shuffled = () => random.shuffled(TAGS);
      const forEach = async (tags: readonly string[], act: (tag: string) => Promise<unknown>) => {
        for (const tag of tags) await act(tag);
      };

      try {
        for (let round = 0; round < ROUNDS; round++) {
          const working = [
            ...unpackers.map((unpacker) => forEach(shuffled(), (tag) => unpack(tag, unpacker))),
            forEach(shuffled(), async (tag) => succeeded(await machine.pull(tag))),
            // another namespace of containerd
            forEach(shuffled(), (tag) => cri.images.PullImage({ image: { image: machine.nameOf(tag) } })),
          ];
          let over = false;
          const removing = (async () => {
            // as the collector of unpackd does
            while (!over) {
              await sleep(20);
              for (const { name } of await store.walk({ kind: 'committed' })) {
                await store.remove(name).catch((error: unknown) => {
                  if (!isSnapshotError(error, 'FailedPrecondition') && !isSnapshotError(error, 'NotFound')) throw error;
                });
              }
            }
          })();
          await Promise.all(working).finally(() => {
            over = true;
          });
          await removing;
          await compare();
          await machine.removeImages();
          for (const { repoTags } of (await cri.images.ListImages({})).images) {
            for (const image of repoTags) await cri.images.RemoveImage({ image: { image } });
          }
          await machine.daemon.collect();
          assert.deepEqual(
            (await store.walk()).filter(({ kind, claim }) => kind !== 'committed' || claim !== undefined),
            [],
          );
          // every second round begins with an empty store
          if (round % 2 === 0) await removeAll();
        }
        await removeAll();
        assert.deepEqual(
          readdirSync(join(root, 'snapshots')).filter((name) => name !== 'store.json'),
          [],
        );
      } finally {
        for (const unpacker of unpackers) await unpacker.close();
        await store.close();
      }

      /** Each image that containerd has is whole in both namespaces, and so is each layer. */
      async function compare(): Promise<void> {
        const found = await treesOf(store);
        for (const [name, tree] of Object.entries(found)) {
          // NAMESPACE/NUMBER/CHAIN of a layer that containerd has extracted
          assert.deepEqual(tree, trees[name.split('/').at(-1) ?? ''], name);
        }
        for (const namespace of ['default', 'k8s.io']) {
          const { snapshots } = machine.daemon.client(namespace);
          for (const [tag, { layers }] of Object.entries(IMAGES)) {
            let parent = '';
            for (const name of chainIds(layers.map(({ diff }) => diff.digest))) {
              const { info } = await snapshots.Stat({ snapshotter: 'unpackd', key: name });
              assert.deepEqual([info?.parent, info?.kind], [parent, 'COMMITTED'], `${tag} in ${namespace}`);
              parent = name;
            }
            await snapshots.View({ snapshotter: 'unpackd', key: 'look', parent, labels: KEPT });
            await snapshots.Remove({ snapshotter: 'unpackd', key: 'look' });
          }
        }
      }

      async function removeAll(): Promise<void> {
        for (let left = await store.walk(); left.length > 0; left = await store.walk()) {
          const parents = new Set(left.map(({ parent }) => parent));
          for (const { name } of left) if (!parents.has(name)) await store.remove(name);
        }
        await store.cleanup();
      }
    });
  });
}

/** Five layers that change each other's files. The first is in all images, the second in every second one. */
function imageIn(number: number): TestImage {
  const first = layerOf(
    tar(directory('d'), file('d/old', 'old'), directory('d/hidden'), file('d/hidden/below', 'below')),
  );
  const half = layerOf(tar(directory('d'), file('d/half', `${number % 2}`), whiteout('d/old')));
  const own = [0, 1, 2].map((layer) =>
    layerOf(
      tar(
        directory('d'),
        file(`d/${layer}`, `${number}`.repeat(1 + layer * 50_000)),
        ...(layer === 0 ? [directory('d/hidden'), opaque('d/hidden')] : []),
      ),
    ),
  );
  return imageOf([first, half, ...own]);
}
