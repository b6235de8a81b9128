import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { imageIndex } from '../../dev/image-documents.ts';
import { UnpackError } from '../../src/errors.ts';
import type { ContainerdClient } from '../../src/grpc/client.ts';
import { isGrpcError } from '../../src/grpc/errors.ts';
import { chainIds, digestOf } from '../../src/oci/digest.ts';
import { hostPlatform } from '../../src/oci/platform.ts';
import { ContainerdImages } from '../../src/snapshots/containerd/images.ts';
import type { NewImage } from '../../src/snapshots/images.ts';
import { isSnapshotError, SnapshotError } from '../../src/snapshots/snapshotter.ts';
import { runChild } from '../support/child.ts';
import { imageOf, layerOf, type TestImage } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';
import { Cri } from './cri.ts';
import { Daemon, isSince, PROGRAMS, skipWithoutContainers } from './daemon.ts';
import { pauseImage } from './images.ts';

const snapshotter = 'overlayfs';
const HOST = hostPlatform();
const FOREIGN = { os: 'linux', architecture: 's390x' };
const RECORD = { source: 's3://bucket/prefix', job: '7' };

/** An image whose layers no other image has. */
const smallImage = (word: string, platform = HOST): TestImage =>
  imageOf([layerOf(tar(file('word', word))), layerOf(tar(file('upper', word)))], platform);

for (const program of PROGRAMS) {
  describe(`images in containerd ${program.version}`, { skip: skipWithoutContainers() }, () => {
    let daemon: Daemon;
    let client: ContainerdClient;
    let images: ContainerdImages;
    let leases = 0;

    before(async () => {
      daemon = await Daemon.start(program, { containers: { pauseImage: 'example.com/pause:1' } });
      client = daemon.client('k8s.io');
      await new Cri(daemon).ready();
      const views = {
        extraction: 'unpackd-test-',
        async viewMounts(key: string) {
          try {
            await client.snapshots.Stat({ snapshotter, key });
            return [];
          } catch (error) {
            if (!isGrpcError(error, 'NOT_FOUND')) throw error;
            throw new SnapshotError('NotFound', key);
          }
        },
      };
      images = new ContainerdImages(client, snapshotter, views, underLease);
    });
    after(() => daemon[Symbol.asyncDispose]());

    async function underLease<T>(calls: (lease: string) => Promise<T>): Promise<T> {
      const id = `lease-${leases++}`;
      await client.leases.Create({ id });
      try {
        return await calls(id);
      } finally {
        await client.leases.Delete({ id }).catch((error: unknown) => {
          if (!isGrpcError(error, 'NOT_FOUND')) throw error;
        });
      }
    }

    /** Makes the snapshots of the image's layers, and keeps them until `record` has ended. */
    async function withLayers<T>(image: TestImage, record: () => Promise<T>): Promise<T> {
      return underLease(async (lease) => {
        let parent = '';
        for (const [index, chainId] of chainIds(image.layers.map(({ diff }) => diff.digest)).entries()) {
          const resource = { id: chainId, type: `snapshots/${snapshotter}` };
          await client.leases.AddResource({ id: lease, resource });
          if (await hasSnapshot(chainId)) {
            parent = chainId;
            continue;
          }
          const key = `unpackd-test-${leases++}`;
          const { mounts } = await client.snapshots.Prepare({ snapshotter, key, parent }, { lease });
          const upper = mounts[0]?.options.find((option) => option.startsWith('upperdir='))?.slice(9);
          await writeLayer(upper ?? mounts[0]?.source ?? '', image.layers[index]?.bytes);
          await client.snapshots.Commit({ snapshotter, key, name: chainId }, { lease });
          parent = chainId;
        }
        return record();
      });
    }

    const record = (
      reference: string,
      image: TestImage,
      more: Partial<NewImage> = {},
      documents = new Map<string, Buffer>(),
    ) =>
      withLayers(image, () =>
        images.recordImage(newImage(reference, image, more), new Map([...documentsOf(image), ...documents])),
      );

    const target = async (name: string): Promise<string | undefined> => {
      try {
        return (await client.images.Get({ name })).image?.target?.digest;
      } catch (error) {
        if (isGrpcError(error, 'NOT_FOUND')) return undefined;
        throw error;
      }
    };
    const hasSnapshot = async (key: string): Promise<boolean> => {
      try {
        return (await client.snapshots.Stat({ snapshotter, key })).info !== null;
      } catch (error) {
        if (isGrpcError(error, 'NOT_FOUND')) return false;
        throw error;
      }
    };
    const listed = async (): Promise<string[]> =>
      (await images.images()).map(({ reference, platform }) => `${reference} ${platform}`);
    const removeAll = async () => {
      for (const { reference } of await images.images()) {
        await images.pinImage(reference, undefined, false).catch(() => {});
        await images.removeImage(reference).catch((error: unknown) => {
          if (!isSnapshotError(error, 'NotFound')) throw error;
        });
      }
      assert.deepEqual(
        (await client.images.List({})).images.map(({ name }) => name),
        [],
      );
    };

    test('are recorded so that containers start from them, also after a collection', async () => {
      const image = pauseImage();
      await record('example.com/team/pause:1', image);
      await daemon.collect();
      const names = ['example.com/team/pause:1', `example.com/team/pause@${image.manifestDigest}`, image.configDigest];
      assert.deepEqual(images.namesOf(newImage('example.com/team/pause:1', image)), names);
      for (const name of names) assert.equal(await target(name), image.manifestDigest);
      const run = [
        'run',
        '--rm',
        '--snapshotter',
        snapshotter,
        'example.com/team/pause:1',
        'c1',
        '/bin/busybox',
        'echo',
        'it runs',
      ];
      assert.equal(await daemon.ctr('k8s.io', ...run), 'it runs\n');
      await removeAll();
    });

    test('are shown by the CRI service with their tag and digest', async () => {
      const image = smallImage('cri');
      await record('alpine', image);
      const { images: shown } = await new Cri(daemon).images.ListImages({});
      const found = shown.filter(({ id }) => id === image.configDigest);
      assert.deepEqual(
        found.map(({ repoTags, repoDigests }) => [repoTags, repoDigests]),
        [[['docker.io/library/alpine:latest'], [`docker.io/library/alpine@${image.manifestDigest}`]]],
      );
      await removeAll();
    });

    test('are looked up with the time of use, until somebody has removed a part of the record', async () => {
      const image = smallImage('look');
      const key = newImage('example.com/look:1', image);
      assert.equal(await images.lookUpImage(key), undefined);
      const breaks: readonly (() => Promise<unknown>)[] = [
        () => client.images.Delete({ name: 'example.com/look:1' }),
        () => client.images.Delete({ name: `example.com/look@${image.manifestDigest}` }),
        () => client.images.Delete({ name: image.configDigest }),
        () => client.content.Delete({ digest: image.configDigest }),
        () => client.content.Delete({ digest: image.manifestDigest }),
        () => daemon.ctr('k8s.io', 'images', 'label', 'example.com/look:1', `unpackd.dev/image/linux/amd64=`),
        async () => {
          const digest = image.configDigest;
          const label = `containerd.io/gc.ref.snapshot.${snapshotter}`;
          await client.content.Update({ info: { digest, labels: {} }, updateMask: { paths: [`labels.${label}`] } });
        },
      ];
      for (const damage of breaks) {
        await record('example.com/look:1', image);
        const known = await images.lookUpImage(key);
        assert.ok(known?.used !== undefined && Math.abs(known.used.getTime() - Date.now()) < 60_000, String(damage));
        await damage();
        // a collection may have taken the layers meanwhile
        assert.equal((await images.lookUpImage(key))?.used, undefined, String(damage));
      }
      await record('example.com/look:1', image);
      assert.equal((await images.lookUpImage({ ...key, reference: 'example.com/look:2' }))?.used, undefined);
      await removeAll();
      assert.equal(await images.lookUpImage(key), undefined);
    });

    test('of all platforms of an index stay, and are removed together', async () => {
      const [own, foreign] = [smallImage('own'), smallImage('foreign', FOREIGN)];
      const bytes = imageIndex([own.manifest, foreign.manifest, { malformed: true }]);
      const indexDigest = digestOf(bytes);
      const documents = new Map([[indexDigest, bytes]]);
      await record('example.com/both:1', own, { indexDigest }, documents);
      await record('example.com/both:1', foreign, { indexDigest, platform: 'linux/s390x' }, documents);
      await daemon.collect();
      assert.deepEqual(await listed(), ['example.com/both:1 linux/amd64', 'example.com/both:1 linux/s390x']);
      assert.equal(await target('example.com/both:1'), indexDigest);
      assert.equal(await target(`example.com/both@${indexDigest}`), indexDigest);
      assert.equal(await target(foreign.configDigest), foreign.manifestDigest);
      assert.ok((await hasSnapshot(own.chainId)) && (await hasSnapshot(foreign.chainId)));
      for (const [image, platform] of [
        [own, 'linux/amd64'],
        [foreign, 'linux/s390x'],
      ] as const) {
        assert.ok((await images.lookUpImage(newImage('example.com/both:1', image, { indexDigest, platform })))?.used);
      }
      await assert.rejects(images.removeImage('example.com/both:1', 'linux/s390x'), /for all its platforms/);
      await assert.rejects(images.removeImage('example.com/both:1', 'linux/arm/v7'), /no image .* for linux\/arm\/v7/);
      assert.equal((await images.removeImage('example.com/both:1')).length, 2);
      assert.deepEqual([await hasSnapshot(own.chainId), await hasSnapshot(foreign.chainId)], [false, false]);
      await removeAll();
    });

    test('that share a tag without an index have the tag once, and their digests', async () => {
      const [own, foreign] = [smallImage('own'), smallImage('foreign', FOREIGN)];
      await record('example.com/app:1', own, { isFurther: false });
      await record('example.com/app:1', foreign, { isFurther: true, platform: 'linux/s390x' });
      await daemon.collect();
      assert.deepEqual(await listed(), [
        'example.com/app:1 linux/amd64',
        `example.com/app@${foreign.manifestDigest} linux/s390x`,
      ]);
      assert.equal(await target('example.com/app:1'), own.manifestDigest);
      assert.ok(await hasSnapshot(foreign.chainId));
      await removeAll();
    });

    test('without layers are recorded too', async () => {
      const image = imageOf([], HOST);
      const key = { ...newImage('example.com/empty:1', image, {}, false), chainId: undefined };
      await images.recordImage(key, documentsOf(image));
      await daemon.collect();
      assert.deepEqual(await listed(), ['example.com/empty:1 linux/amd64']);
      assert.ok((await images.lookUpImage(key))?.used);
      const { images: shown } = await new Cri(daemon).images.ListImages({});
      assert.ok(shown.some(({ id }) => id === image.configDigest));
      await removeAll();
    });

    test('with documents that are there already get the missing labels, and keep those of others', async () => {
      const image = smallImage('twice');
      const put = async (digest: string) => {
        const data = documentsOf(image).get(digest) ?? Buffer.alloc(0);
        const labels = { 'example.com/other': '1', 'containerd.io/distribution.source.example.com': 'b' };
        const write = { action: 'COMMIT', ref: digest, total: data.length, expected: digest, data, labels } as const;
        for await (const _ of client.content.Write([write]));
      };
      await put(image.configDigest);
      await put(image.manifestDigest);
      await record('example.com/a:1', image);
      await daemon.collect();
      const labels = (await client.content.Info({ digest: image.configDigest })).info?.labels;
      assert.deepEqual(labels, {
        'example.com/other': '1',
        'containerd.io/distribution.source.example.com': 'a,b',
        [`containerd.io/gc.ref.snapshot.${snapshotter}`]: image.chainId,
      });
      assert.deepEqual((await images.images())[0]?.broken, undefined);
      await removeAll();
    });

    test('keep the documents byte for byte', async () => {
      const image = smallImage('bytes');
      await record('example.com/bytes:1', image);
      for (const [digest, bytes] of documentsOf(image)) {
        assert.deepEqual(Buffer.from((await images.document(digest)) ?? []), bytes);
      }
      assert.equal(await images.document(digestOf(Buffer.from('none'))), undefined);
      await removeAll();
    });

    test('are listed with source, job, sizes and users', async () => {
      const base = layerOf(tar(file('base', 'b'.repeat(10_000))));
      const one = imageOf([base, layerOf(tar(file('one', '1')))], HOST);
      const two = imageOf([base, layerOf(tar(file('two', '2')))], HOST);
      await record('example.com/one:1', one);
      await record('example.com/two:1', two, { source: 'elsewhere', job: undefined });
      await underLease(async (lease) => {
        await client.snapshots.Prepare({ snapshotter, key: 'container', parent: one.chainId }, { lease });
        await client.snapshots.Prepare({ snapshotter, key: 'extract-1', parent: one.chainId }, { lease });
        await client.snapshots.Prepare({ snapshotter, key: 'unpackd-test-x', parent: one.chainId }, { lease });
        const [first, second, ...others] = await images.images();
        assert.deepEqual(others, []);
        assert.deepEqual([first?.reference, first?.source, first?.job], ['example.com/one:1', RECORD.source, '7']);
        assert.deepEqual(
          [second?.reference, second?.source, second?.job],
          ['example.com/two:1', 'elsewhere', undefined],
        );
        assert.deepEqual([first?.usedBy, second?.usedBy], [['container'], []]);
        assert.equal(first?.unmeasured, 0);
        assert.ok((first?.shared.bytes ?? 0) >= 10_000 && first?.shared.bytes === second?.shared.bytes);
        assert.ok((first?.own.bytes ?? 0) > 0 && (first?.own.bytes ?? 0) < 10_000_000);
      });
      await removeAll();
    });

    test('whose tag moves keep a record with their digest, and the tag keeps its pin', async () => {
      const [old, next] = [smallImage('old'), smallImage('next')];
      await record('example.com/moving:1', old);
      await images.pinImage('example.com/moving:1', undefined, true);
      await record('example.com/moving:1', next);
      await daemon.collect();
      const shown = (await images.images()).map(({ reference, pinned, manifestDigest }) => [
        reference,
        pinned,
        manifestDigest,
      ]);
      assert.deepEqual(shown, [
        ['example.com/moving:1', true, next.manifestDigest],
        [`example.com/moving@${old.manifestDigest}`, false, old.manifestDigest],
      ]);
      assert.ok((await hasSnapshot(old.chainId)) && (await hasSnapshot(next.chainId)));
      await removeAll();
    });

    test('are pinned for the kubelet, and not removed as long as they are', async () => {
      const image = smallImage('pin');
      await record('example.com/pin:1', image);
      assert.deepEqual(
        (await images.pinImage('example.com/pin:1', undefined, true)).map(({ pinned }) => pinned),
        [true],
      );
      const { image: pinned } = await client.images.Get({ name: 'example.com/pin:1' });
      assert.equal(pinned?.labels['io.cri-containerd.pinned'], 'pinned');
      await assert.rejects(images.removeImage('example.com/pin:1'), (error) =>
        isSnapshotError(error, 'FailedPrecondition'),
      );
      await record('example.com/pin:1', image);
      assert.equal((await images.images())[0]?.pinned, true);
      await images.pinImage('example.com/pin:1', 'linux/amd64', false);
      assert.equal((await images.images())[0]?.pinned, false);
      await assert.rejects(images.pinImage('example.com/none', undefined, true), (error) =>
        isSnapshotError(error, 'NotFound'),
      );
      await removeAll();
    });

    test('are removed with the names that nothing else needs', async () => {
      const image = smallImage('names');
      await record('example.com/a:1', image);
      await record('example.com/a:2', image);
      await record('example.com/b:1', image);
      await images.removeImage('example.com/a:1');
      assert.equal(await target(`example.com/a@${image.manifestDigest}`), image.manifestDigest);
      await images.removeImage('example.com/a:2');
      assert.equal(await target(`example.com/a@${image.manifestDigest}`), undefined);
      assert.equal(await target(image.configDigest), image.manifestDigest);
      assert.ok(await hasSnapshot(image.chainId));
      await images.removeImage('example.com/b:1');
      assert.equal(await target(image.configDigest), undefined);
      assert.equal(await hasSnapshot(image.chainId), false);
      await assert.rejects(images.removeImage('example.com/b:1'), (error) => isSnapshotError(error, 'NotFound'));
      await assert.rejects(images.removeImage('./no name'), (error) => isSnapshotError(error, 'NotFound'));
    });

    test('with the same config and other manifests share an ID', async () => {
      const gzip = smallImage('same');
      const other = imageOf(gzip.layers, HOST, { annotations: { other: 'manifest' } });
      assert.equal(gzip.configDigest, other.configDigest);
      const references = [
        ['example.com/a:1', gzip],
        ['example.com/b:1', other],
      ] as const;
      for (const [reference, image] of references) await record(reference, image);
      for (const [reference, image] of references) {
        assert.ok((await images.lookUpImage(newImage(reference, image)))?.used, reference);
      }
      await images.removeImage('example.com/b:1');
      assert.ok(await target(gzip.configDigest), 'the ID is needed by the other image');
      assert.ok((await images.lookUpImage(newImage('example.com/a:1', gzip)))?.used);
      await images.removeImage('example.com/a:1');
      assert.equal(await target(gzip.configDigest), undefined);
      await removeAll();
    });

    test('of any platform that a config names are recorded', async () => {
      for (const platform of ['', 'linux/"\u{1F600}"', `linux/${'x'.repeat(5000)}`, 'windows/amd64', 'linux/\ud800']) {
        const image = smallImage('platform');
        const key = newImage('example.com/platform:1', image, { platform });
        await record('example.com/platform:1', image, { platform });
        assert.ok((await images.lookUpImage(key))?.used, platform.slice(0, 20));
        const [listing] = await images.images();
        assert.equal(listing?.platform, platform.slice(0, 128));
        assert.equal((await images.removeImage('example.com/platform:1', listing?.platform)).length, 1);
      }
      await removeAll();
    });

    const knowsSha512 = isSince(program.version, '2.3') && 'this containerd writes blobs with digests of SHA-512';
    test('with digests that containerd does not know fail with a sentence', { skip: knowsSha512 }, async () => {
      const image = smallImage('sha512');
      const bytes = Buffer.concat([documentsOf(image).get(image.manifestDigest) ?? Buffer.alloc(0), Buffer.from(' ')]);
      const manifestDigest = digestOf(bytes, 'sha512');
      const recorded = withLayers(image, () =>
        images.recordImage(
          newImage('example.com/sha512:1', image, { manifestDigest }),
          new Map([[manifestDigest, bytes]]),
        ),
      );
      await assert.rejects(recorded, (error) => error instanceof UnpackError && error.code === 'LIMIT_EXCEEDED');
      assert.deepEqual(await listed(), []);
    });

    test('of others stay when their record is taken away', async () => {
      const image = smallImage('others');
      const pulled = {
        name: 'example.com/pulled:1',
        target: { ...image.manifest },
        labels: { 'example.com/own': '1' },
      };
      await record('example.com/ours:1', image);
      await client.images.Create({ image: pulled });
      await record('example.com/pulled:1', image);
      assert.equal((await images.removeImage('example.com/pulled:1')).length, 1);
      assert.equal((await images.removeImage('example.com/ours:1')).length, 1);
      const { image: left } = await client.images.Get({ name: 'example.com/pulled:1' });
      const { 'io.cri-containerd.image': _, ...labels } = left?.labels ?? {};
      assert.deepEqual(labels, { 'example.com/own': '1' });
      assert.equal(await target(image.configDigest), image.manifestDigest, 'the ID of an image that others have stays');
      assert.ok(await hasSnapshot(image.chainId));
      await assert.rejects(images.removeImage('example.com/pulled:1'), (error) => isSnapshotError(error, 'NotFound'));
      for (const { name } of (await client.images.List({})).images) await client.images.Delete({ name });
      await daemon.collect();
    });

    test('that a pull has moved away from are no longer our own', async () => {
      const [ours, theirs] = [smallImage('ours'), smallImage('theirs')];
      await record('example.com/theirs:1', theirs);
      await record('example.com/tag:1', ours);
      const moved = { name: 'example.com/tag:1', target: theirs.manifest };
      await client.images.Update({ image: moved, updateMask: { paths: ['target'] } });
      assert.deepEqual(await listed(), [
        `example.com/tag@${ours.manifestDigest} linux/amd64`,
        'example.com/theirs:1 linux/amd64',
      ]);
      await assert.rejects(images.removeImage('example.com/tag:1'), (error) => isSnapshotError(error, 'NotFound'));
      assert.equal((await images.lookUpImage(newImage('example.com/tag:1', ours)))?.used, undefined);
      await client.images.Delete({ name: 'example.com/tag:1' });
      await removeAll();
    });

    test('are recorded by their digest if the reference has it, and refused if it is that of another image', async () => {
      const image = smallImage('digest');
      const reference = `example.com/app:1@${image.manifestDigest}`;
      await record(reference, image);
      assert.deepEqual(await listed(), [`example.com/app@${image.manifestDigest} linux/amd64`]);
      assert.equal(await target('example.com/app:1'), undefined);
      // a tag beside it does not take the record with it
      await record('example.com/app:1', image);
      await images.removeImage('example.com/app:1');
      assert.deepEqual(await listed(), [`example.com/app@${image.manifestDigest} linux/amd64`]);
      await removeAll();
      const other = newImage(`example.com/app@${digestOf(Buffer.from('other'))}`, image);
      await assert.rejects(
        images.lookUpImage(other),
        (error) => error instanceof UnpackError && error.code === 'INVALID_JOB',
      );
      await assert.rejects(images.recordImage(other, documentsOf(image)), /has the digest/);
      assert.throws(() => images.checkReference('s3://bucket/app:1'), /cannot be the name of an image/);
    });

    test('are not recorded without their top snapshot, and leave nothing', async () => {
      const image = smallImage('gone');
      const record = images.recordImage(newImage('example.com/gone:1', image), documentsOf(image));
      await assert.rejects(record, (error) => isSnapshotError(error, 'NotFound'));
      await daemon.collect();
      assert.equal(await images.document(image.configDigest), undefined);
      assert.deepEqual(await listed(), []);
    });

    test('of explicit layers stay, move, are pinned and are removed as others', async () => {
      const [old, next] = [smallImage('layers'), smallImage('other layers')];
      const layers = (image: TestImage, reference = 'example.com/layers:1'): NewImage => ({
        ...RECORD,
        reference,
        platform: '',
        chainId: image.chainId,
      });
      const recordLayers = (image: TestImage) => withLayers(image, () => images.recordImage(layers(image), new Map()));
      await recordLayers(old);
      await daemon.collect();
      assert.deepEqual(images.namesOf(layers(old)), []);
      assert.deepEqual(await listed(), ['example.com/layers:1 ']);
      assert.ok((await images.lookUpImage(layers(old)))?.used);
      assert.equal((await images.lookUpImage(layers(old, 'example.com/other')))?.used, undefined);
      await images.pinImage('example.com/layers:1', undefined, true);
      await recordLayers(next);
      await daemon.collect();
      const shown = (await images.images()).map(({ reference, pinned, chainId }) => [reference, pinned, chainId]);
      assert.deepEqual(shown, [
        ['example.com/layers:1', true, next.chainId],
        [`example.com/layers@${old.chainId}`, false, old.chainId],
      ]);
      await images.removeImage(`example.com/layers@${old.chainId}`);
      assert.deepEqual([await hasSnapshot(old.chainId), await hasSnapshot(next.chainId)], [false, true]);
      await assert.rejects(images.removeImage('example.com/layers:1'), (error) =>
        isSnapshotError(error, 'FailedPrecondition'),
      );
      await images.pinImage('example.com/layers:1', '', false);
      assert.equal((await images.removeImage('example.com/layers:1')).length, 1);
      assert.equal(await hasSnapshot(next.chainId), false);
    });

    test('are recorded by many at the same time as others pull, move and remove them', async () => {
      const all = Array.from({ length: 4 }, (_, n) => smallImage(`race ${n}`));
      await Promise.all(
        all.map((image) =>
          withLayers(image, async () => {
            for (let n = 0; n < 10; n += 1) {
              await images.recordImage(newImage('example.com/race:1', image), documentsOf(image));
              if (n % 3 === 0) await client.images.Delete({ name: 'example.com/race:1' }).catch(() => {});
            }
          }),
        ),
      );
      await record('example.com/race:1', all[0] ?? smallImage('none'));
      assert.deepEqual((await listed()).length, 4);
      await removeAll();
      for (const { chainId } of all) assert.equal(await hasSnapshot(chainId), false);
    });
  });
}

async function writeLayer(directory: string, bytes: Buffer | undefined): Promise<void> {
  using folder = scratch();
  const path = join(folder.path, 'layer.tar.gz');
  writeFileSync(path, bytes ?? Buffer.alloc(0));
  const { status, stderr } = runChild('tar', ['-xzf', path, '-C', directory]);
  assert.equal(status, 0, stderr);
}

function documentsOf(image: TestImage): Map<string, Buffer> {
  const layers = new Set<string>(image.layers.map(({ blob }) => blob.digest));
  return new Map([...image.blobs].filter(([digest]) => !layers.has(digest)));
}

function newImage(reference: string, image: TestImage, more: Partial<NewImage> = {}, hasLayers = true): NewImage {
  const { manifestDigest, configDigest } = image;
  const chain = hasLayers ? { chainId: image.chainId } : {};
  return { ...RECORD, reference, platform: 'linux/amd64', manifestDigest, configDigest, ...chain, ...more };
}
