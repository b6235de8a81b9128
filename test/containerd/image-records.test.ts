import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { imageIndex } from '../../dev/image-documents.ts';
import { UnpackError } from '../../src/errors.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { isSnapshotError } from '../../src/snapshots/snapshotter.ts';
import { imageOf, layerOf } from '../support/layout.ts';
import { file, tar } from '../support/tar.ts';
import { Cri } from './cri.ts';
import { Daemon, isSince, PROGRAMS, skipWithoutContainers } from './daemon.ts';
import {
  documentsOf,
  HOST,
  HOST_NAME,
  ImageStage,
  newImage,
  RECORD,
  smallImage,
  SNAPSHOTTER as snapshotter,
} from './image-stage.ts';
import { pauseImage } from './images.ts';

const FOREIGN = { os: 'linux', architecture: 's390x' };

/** How images are recorded, and what of a record is found. image-removal.test.ts has what moves and removes them. */
for (const program of PROGRAMS) {
  describe(`images in containerd ${program.version}`, { skip: skipWithoutContainers() }, () => {
    let stage: ImageStage;
    before(async () => {
      const daemon = await Daemon.start(program, { containers: { pauseImage: 'example.com/pause:1' } });
      await new Cri(daemon).ready();
      stage = new ImageStage(daemon);
    });
    after(() => stage.daemon[Symbol.asyncDispose]());

    test('are recorded so that containers start from them, also after a collection', async () => {
      const image = pauseImage();
      await stage.record('example.com/team/pause:1', image);
      await stage.daemon.collect();
      const names = ['example.com/team/pause:1', `example.com/team/pause@${image.manifestDigest}`, image.configDigest];
      assert.deepEqual(stage.images.namesOf(newImage('example.com/team/pause:1', image)), names);
      for (const name of names) assert.equal(await stage.target(name), image.manifestDigest);
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
      assert.equal(await stage.daemon.ctr('k8s.io', ...run), 'it runs\n');
      await stage.removeAll();
    });

    test('are shown by the CRI service with their tag and digest', async () => {
      const image = smallImage('cri');
      await stage.record('alpine', image);
      const { images: shown } = await new Cri(stage.daemon).images.ListImages({});
      const found = shown.filter(({ id }) => id === image.configDigest);
      assert.deepEqual(
        found.map(({ repoTags, repoDigests }) => [repoTags, repoDigests]),
        [[['docker.io/library/alpine:latest'], [`docker.io/library/alpine@${image.manifestDigest}`]]],
      );
      await stage.removeAll();
    });

    test('are looked up with the time of use, until somebody has removed a part of the record', async () => {
      const image = smallImage('look');
      const key = newImage('example.com/look:1', image);
      assert.equal(await stage.images.lookUpImage(key), undefined);
      const breaks: readonly (() => Promise<unknown>)[] = [
        () => stage.client.images.Delete({ name: 'example.com/look:1' }),
        () => stage.client.images.Delete({ name: `example.com/look@${image.manifestDigest}` }),
        () => stage.client.images.Delete({ name: image.configDigest }),
        () => stage.client.content.Delete({ digest: image.configDigest }),
        () => stage.client.content.Delete({ digest: image.manifestDigest }),
        () => stage.daemon.ctr('k8s.io', 'images', 'label', 'example.com/look:1', `unpackd.dev/image/${HOST_NAME}=`),
        async () => {
          const digest = image.configDigest;
          const label = `containerd.io/gc.ref.snapshot.${snapshotter}`;
          await stage.client.content.Update({
            info: { digest, labels: {} },
            updateMask: { paths: [`labels.${label}`] },
          });
        },
      ];
      for (const damage of breaks) {
        await stage.record('example.com/look:1', image);
        const known = await stage.images.lookUpImage(key);
        assert.ok(known?.used !== undefined && Math.abs(known.used.getTime() - Date.now()) < 60_000, String(damage));
        await damage();
        // a collection may have taken the layers meanwhile
        assert.equal((await stage.images.lookUpImage(key))?.used, undefined, String(damage));
      }
      await stage.record('example.com/look:1', image);
      assert.equal((await stage.images.lookUpImage({ ...key, reference: 'example.com/look:2' }))?.used, undefined);
      await stage.removeAll();
      assert.equal(await stage.images.lookUpImage(key), undefined);
    });

    test('of all platforms of an index stay, and are removed together', async () => {
      const [own, foreign] = [smallImage('own'), smallImage('foreign', FOREIGN)];
      const bytes = imageIndex([own.manifest, foreign.manifest, { malformed: true }]);
      const indexDigest = digestOf(bytes);
      const documents = new Map([[indexDigest, bytes]]);
      await stage.record('example.com/both:1', own, { indexDigest }, documents);
      await stage.record('example.com/both:1', foreign, { indexDigest, platform: 'linux/s390x' }, documents);
      await stage.daemon.collect();
      assert.deepEqual(await stage.listed(), [`example.com/both:1 ${HOST_NAME}`, 'example.com/both:1 linux/s390x']);
      assert.equal(await stage.target('example.com/both:1'), indexDigest);
      assert.equal(await stage.target(`example.com/both@${indexDigest}`), indexDigest);
      assert.equal(await stage.target(foreign.configDigest), foreign.manifestDigest);
      assert.ok((await stage.hasSnapshot(own.chainId)) && (await stage.hasSnapshot(foreign.chainId)));
      for (const [image, platform] of [
        [own, HOST_NAME],
        [foreign, 'linux/s390x'],
      ] as const) {
        assert.ok(
          (await stage.images.lookUpImage(newImage('example.com/both:1', image, { indexDigest, platform })))?.used,
        );
      }
      await assert.rejects(stage.images.removeImage('example.com/both:1', 'linux/s390x'), /for all its platforms/);
      await assert.rejects(
        stage.images.removeImage('example.com/both:1', 'linux/arm/v7'),
        /no image .* for linux\/arm\/v7/,
      );
      assert.equal((await stage.images.removeImage('example.com/both:1')).length, 2);
      assert.deepEqual(
        [await stage.hasSnapshot(own.chainId), await stage.hasSnapshot(foreign.chainId)],
        [false, false],
      );
      await stage.removeAll();
    });

    test('that share a tag without an index have the tag once, and their digests', async () => {
      const [own, foreign] = [smallImage('own'), smallImage('foreign', FOREIGN)];
      await stage.record('example.com/app:1', own, { isFurther: false });
      await stage.record('example.com/app:1', foreign, { isFurther: true, platform: 'linux/s390x' });
      await stage.daemon.collect();
      assert.deepEqual(await stage.listed(), [
        `example.com/app:1 ${HOST_NAME}`,
        `example.com/app@${foreign.manifestDigest} linux/s390x`,
      ]);
      assert.equal(await stage.target('example.com/app:1'), own.manifestDigest);
      assert.ok(await stage.hasSnapshot(foreign.chainId));
      await stage.removeAll();
    });

    test('without layers are recorded too', async () => {
      const image = imageOf([], HOST);
      const key = { ...newImage('example.com/empty:1', image, {}, false), chainId: undefined };
      await stage.images.recordImage(key, documentsOf(image));
      await stage.daemon.collect();
      assert.deepEqual(await stage.listed(), [`example.com/empty:1 ${HOST_NAME}`]);
      assert.ok((await stage.images.lookUpImage(key))?.used);
      const { images: shown } = await new Cri(stage.daemon).images.ListImages({});
      assert.ok(shown.some(({ id }) => id === image.configDigest));
      await stage.removeAll();
    });

    test('with documents that are there already get the missing labels, and keep those of others', async () => {
      const image = smallImage('twice');
      const put = async (digest: string) => {
        const data = documentsOf(image).get(digest) ?? Buffer.alloc(0);
        const labels = { 'example.com/other': '1', 'containerd.io/distribution.source.example.com': 'b' };
        const write = { action: 'COMMIT', ref: digest, total: data.length, expected: digest, data, labels } as const;
        for await (const _ of stage.client.content.Write([write]));
      };
      await put(image.configDigest);
      await put(image.manifestDigest);
      await stage.record('example.com/a:1', image);
      await stage.daemon.collect();
      const labels = (await stage.client.content.Info({ digest: image.configDigest })).info?.labels;
      assert.deepEqual(labels, {
        'example.com/other': '1',
        'containerd.io/distribution.source.example.com': 'a,b',
        [`containerd.io/gc.ref.snapshot.${snapshotter}`]: image.chainId,
      });
      assert.deepEqual((await stage.images.images())[0]?.broken, undefined);
      await stage.removeAll();
    });

    test('keep the documents byte for byte', async () => {
      const image = smallImage('bytes');
      await stage.record('example.com/bytes:1', image);
      for (const [digest, bytes] of documentsOf(image)) {
        assert.deepEqual(Buffer.from((await stage.images.document(digest)) ?? []), bytes);
      }
      assert.equal(await stage.images.document(digestOf(Buffer.from('none'))), undefined);
      await stage.removeAll();
    });

    test('are listed with source, job, sizes and users', async () => {
      const base = layerOf(tar(file('base', 'b'.repeat(10_000))));
      const one = imageOf([base, layerOf(tar(file('one', '1')))], HOST);
      const two = imageOf([base, layerOf(tar(file('two', '2')))], HOST);
      await stage.record('example.com/one:1', one);
      await stage.record('example.com/two:1', two, { source: 'elsewhere', job: undefined });
      await stage.underLease(async (lease) => {
        await stage.client.snapshots.Prepare({ snapshotter, key: 'container', parent: one.chainId }, { lease });
        await stage.client.snapshots.Prepare({ snapshotter, key: 'extract-1', parent: one.chainId }, { lease });
        await stage.client.snapshots.Prepare({ snapshotter, key: 'unpackd-test-x', parent: one.chainId }, { lease });
        const [first, second, ...others] = await stage.images.images();
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
      await stage.removeAll();
    });

    test('of any platform that a config names are recorded', async () => {
      for (const platform of ['', 'linux/"\u{1F600}"', `linux/${'x'.repeat(5000)}`, 'windows/amd64', 'linux/\ud800']) {
        const image = smallImage('platform');
        const key = newImage('example.com/platform:1', image, { platform });
        await stage.record('example.com/platform:1', image, { platform });
        assert.ok((await stage.images.lookUpImage(key))?.used, platform.slice(0, 20));
        const [listing] = await stage.images.images();
        assert.equal(listing?.platform, platform.slice(0, 128));
        assert.equal((await stage.images.removeImage('example.com/platform:1', listing?.platform)).length, 1);
      }
      await stage.removeAll();
    });

    const knowsSha512 = isSince(program.version, '2.3') && 'this containerd writes blobs with digests of SHA-512';
    test('with digests that containerd does not know fail with a sentence', { skip: knowsSha512 }, async () => {
      const image = smallImage('sha512');
      const bytes = Buffer.concat([documentsOf(image).get(image.manifestDigest) ?? Buffer.alloc(0), Buffer.from(' ')]);
      const manifestDigest = digestOf(bytes, 'sha512');
      const recorded = stage.withLayers(image, () =>
        stage.images.recordImage(
          newImage('example.com/sha512:1', image, { manifestDigest }),
          new Map([[manifestDigest, bytes]]),
        ),
      );
      await assert.rejects(recorded, (error) => error instanceof UnpackError && error.code === 'LIMIT_EXCEEDED');
      assert.deepEqual(await stage.listed(), []);
    });

    test('are recorded by their digest if the reference has it, and refused if it is that of another image', async () => {
      const image = smallImage('digest');
      const reference = `example.com/app:1@${image.manifestDigest}`;
      await stage.record(reference, image);
      assert.deepEqual(await stage.listed(), [`example.com/app@${image.manifestDigest} ${HOST_NAME}`]);
      assert.equal(await stage.target('example.com/app:1'), undefined);
      // a tag beside it does not take the record with it
      await stage.record('example.com/app:1', image);
      await stage.images.removeImage('example.com/app:1');
      assert.deepEqual(await stage.listed(), [`example.com/app@${image.manifestDigest} ${HOST_NAME}`]);
      await stage.removeAll();
      const other = newImage(`example.com/app@${digestOf(Buffer.from('other'))}`, image);
      await assert.rejects(
        stage.images.lookUpImage(other),
        (error) => error instanceof UnpackError && error.code === 'INVALID_JOB',
      );
      await assert.rejects(stage.images.recordImage(other, documentsOf(image)), /has the digest/);
      assert.throws(() => stage.images.checkReference('s3://bucket/app:1'), /cannot be the name of an image/);
    });

    test('are not recorded without their top snapshot, and leave nothing', async () => {
      const image = smallImage('gone');
      const record = stage.images.recordImage(newImage('example.com/gone:1', image), documentsOf(image));
      await assert.rejects(record, (error) => isSnapshotError(error, 'NotFound'));
      await stage.daemon.collect();
      assert.equal(await stage.images.document(image.configDigest), undefined);
      assert.deepEqual(await stage.listed(), []);
    });

    test('are recorded by many at the same time as others pull, move and remove them', async () => {
      const all = Array.from({ length: 4 }, (_, n) => smallImage(`race ${n}`));
      await Promise.all(
        all.map((image) =>
          stage.withLayers(image, async () => {
            for (let n = 0; n < 10; n += 1) {
              await stage.images.recordImage(newImage('example.com/race:1', image), documentsOf(image));
              if (n % 3 === 0) await stage.client.images.Delete({ name: 'example.com/race:1' }).catch(() => {});
            }
          }),
        ),
      );
      await stage.record('example.com/race:1', all[0] ?? smallImage('none'));
      assert.deepEqual((await stage.listed()).length, 4);
      await stage.removeAll();
      for (const { chainId } of all) assert.equal(await stage.hasSnapshot(chainId), false);
    });
  });
}
