import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { NewImage } from '../../src/snapshots/images.ts';
import { isSnapshotError } from '../../src/snapshots/snapshotter.ts';
import { imageOf, type TestImage } from '../support/layout.ts';
import { Daemon, PROGRAMS, skipWithoutContainerd } from './daemon.ts';
import { HOST, HOST_NAME, ImageStage, newImage, RECORD, smallImage } from './image-stage.ts';

/** What moves, pins and removes images, and what then stays. */
for (const program of PROGRAMS) {
  describe(`images in containerd ${program.version}`, { skip: skipWithoutContainerd() }, () => {
    let stage: ImageStage;
    before(async () => {
      stage = new ImageStage(await Daemon.start(program));
    });
    after(() => stage.daemon[Symbol.asyncDispose]());

    test('whose tag moves keep a record with their digest, and the tag keeps its pin', async () => {
      const [old, next] = [smallImage('old'), smallImage('next')];
      await stage.record('example.com/moving:1', old);
      await stage.images.pinImage('example.com/moving:1', undefined, true);
      await stage.record('example.com/moving:1', next);
      await stage.daemon.collect();
      const shown = (await stage.images.images()).map(({ reference, pinned, manifestDigest }) => [
        reference,
        pinned,
        manifestDigest,
      ]);
      assert.deepEqual(shown, [
        ['example.com/moving:1', true, next.manifestDigest],
        [`example.com/moving@${old.manifestDigest}`, false, old.manifestDigest],
      ]);
      assert.ok((await stage.hasSnapshot(old.chainId)) && (await stage.hasSnapshot(next.chainId)));
      await stage.removeAll();
    });

    test('are pinned for the kubelet, and not removed as long as they are', async () => {
      const image = smallImage('pin');
      await stage.record('example.com/pin:1', image);
      assert.deepEqual(
        (await stage.images.pinImage('example.com/pin:1', undefined, true)).map(({ pinned }) => pinned),
        [true],
      );
      const { image: pinned } = await stage.client.images.Get({ name: 'example.com/pin:1' });
      assert.equal(pinned?.labels['io.cri-containerd.pinned'], 'pinned');
      await assert.rejects(stage.images.removeImage('example.com/pin:1'), (error) =>
        isSnapshotError(error, 'FailedPrecondition'),
      );
      await stage.record('example.com/pin:1', image);
      assert.equal((await stage.images.images())[0]?.pinned, true);
      await stage.images.pinImage('example.com/pin:1', HOST_NAME, false);
      assert.equal((await stage.images.images())[0]?.pinned, false);
      await assert.rejects(stage.images.pinImage('example.com/none', undefined, true), (error) =>
        isSnapshotError(error, 'NotFound'),
      );
      await stage.removeAll();
    });

    test('are removed with the names that nothing else needs', async () => {
      const image = smallImage('names');
      await stage.record('example.com/a:1', image);
      await stage.record('example.com/a:2', image);
      await stage.record('example.com/b:1', image);
      await stage.images.removeImage('example.com/a:1');
      assert.equal(await stage.target(`example.com/a@${image.manifestDigest}`), image.manifestDigest);
      await stage.images.removeImage('example.com/a:2');
      assert.equal(await stage.target(`example.com/a@${image.manifestDigest}`), undefined);
      assert.equal(await stage.target(image.configDigest), image.manifestDigest);
      assert.ok(await stage.hasSnapshot(image.chainId));
      await stage.images.removeImage('example.com/b:1');
      assert.equal(await stage.target(image.configDigest), undefined);
      assert.equal(await stage.hasSnapshot(image.chainId), false);
      await assert.rejects(stage.images.removeImage('example.com/b:1'), (error) => isSnapshotError(error, 'NotFound'));
      await assert.rejects(stage.images.removeImage('./no name'), (error) => isSnapshotError(error, 'NotFound'));
    });

    test('with the same config and other manifests share an ID', async () => {
      const gzip = smallImage('same');
      const other = imageOf(gzip.layers, HOST, { annotations: { other: 'manifest' } });
      assert.equal(gzip.configDigest, other.configDigest);
      const references = [
        ['example.com/a:1', gzip],
        ['example.com/b:1', other],
      ] as const;
      for (const [reference, image] of references) await stage.record(reference, image);
      for (const [reference, image] of references) {
        assert.ok((await stage.images.lookUpImage(newImage(reference, image)))?.used, reference);
      }
      await stage.images.removeImage('example.com/b:1');
      assert.ok(await stage.target(gzip.configDigest), 'the ID is needed by the other image');
      assert.ok((await stage.images.lookUpImage(newImage('example.com/a:1', gzip)))?.used);
      await stage.images.removeImage('example.com/a:1');
      assert.equal(await stage.target(gzip.configDigest), undefined);
      await stage.removeAll();
    });

    test('of others stay when their record is taken away', async () => {
      const image = smallImage('others');
      const pulled = {
        name: 'example.com/pulled:1',
        target: { ...image.manifest },
        labels: { 'example.com/own': '1' },
      };
      await stage.record('example.com/ours:1', image);
      await stage.client.images.Create({ image: pulled });
      await stage.record('example.com/pulled:1', image);
      assert.equal((await stage.images.removeImage('example.com/pulled:1')).length, 1);
      assert.equal((await stage.images.removeImage('example.com/ours:1')).length, 1);
      const { image: left } = await stage.client.images.Get({ name: 'example.com/pulled:1' });
      const { 'io.cri-containerd.image': _, ...labels } = left?.labels ?? {};
      assert.deepEqual(labels, { 'example.com/own': '1' });
      assert.equal(
        await stage.target(image.configDigest),
        image.manifestDigest,
        'the ID of an image that others have stays',
      );
      assert.ok(await stage.hasSnapshot(image.chainId));
      await assert.rejects(stage.images.removeImage('example.com/pulled:1'), (error) =>
        isSnapshotError(error, 'NotFound'),
      );
      for (const { name } of (await stage.client.images.List({})).images) await stage.client.images.Delete({ name });
      await stage.daemon.collect();
    });

    test('that a pull has moved away from are no longer our own', async () => {
      const [ours, theirs] = [smallImage('ours'), smallImage('theirs')];
      await stage.record('example.com/theirs:1', theirs);
      await stage.record('example.com/tag:1', ours);
      const moved = { name: 'example.com/tag:1', target: theirs.manifest };
      await stage.client.images.Update({ image: moved, updateMask: { paths: ['target'] } });
      assert.deepEqual(await stage.listed(), [
        `example.com/tag@${ours.manifestDigest} ${HOST_NAME}`,
        `example.com/theirs:1 ${HOST_NAME}`,
      ]);
      await assert.rejects(stage.images.removeImage('example.com/tag:1'), (error) =>
        isSnapshotError(error, 'NotFound'),
      );
      assert.equal((await stage.images.lookUpImage(newImage('example.com/tag:1', ours)))?.used, undefined);
      await stage.client.images.Delete({ name: 'example.com/tag:1' });
      await stage.removeAll();
    });

    test('of explicit layers stay, move, are pinned and are removed as others', async () => {
      const [old, next] = [smallImage('layers'), smallImage('other layers')];
      const layers = (image: TestImage, reference = 'example.com/layers:1'): NewImage => ({
        ...RECORD,
        reference,
        platform: '',
        chainId: image.chainId,
      });
      const recordLayers = (image: TestImage) =>
        stage.withLayers(image, () => stage.images.recordImage(layers(image), new Map()));
      await recordLayers(old);
      await stage.daemon.collect();
      assert.deepEqual(stage.images.namesOf(layers(old)), []);
      assert.deepEqual(await stage.listed(), ['example.com/layers:1 ']);
      assert.ok((await stage.images.lookUpImage(layers(old)))?.used);
      assert.equal((await stage.images.lookUpImage(layers(old, 'example.com/other')))?.used, undefined);
      await stage.images.pinImage('example.com/layers:1', undefined, true);
      await recordLayers(next);
      await stage.daemon.collect();
      const shown = (await stage.images.images()).map(({ reference, pinned, chainId }) => [reference, pinned, chainId]);
      assert.deepEqual(shown, [
        ['example.com/layers:1', true, next.chainId],
        [`example.com/layers@${old.chainId}`, false, old.chainId],
      ]);
      await stage.images.removeImage(`example.com/layers@${old.chainId}`);
      assert.deepEqual([await stage.hasSnapshot(old.chainId), await stage.hasSnapshot(next.chainId)], [false, true]);
      await assert.rejects(stage.images.removeImage('example.com/layers:1'), (error) =>
        isSnapshotError(error, 'FailedPrecondition'),
      );
      await stage.images.pinImage('example.com/layers:1', '', false);
      assert.equal((await stage.images.removeImage('example.com/layers:1')).length, 1);
      assert.equal(await stage.hasSnapshot(next.chainId), false);
    });
  });
}
