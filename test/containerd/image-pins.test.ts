import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import type { ContainerdClient } from '../../src/grpc/client.ts';
import { isSnapshotError } from '../../src/snapshots/snapshotter.ts';
import { eventually } from '../support/eventually.ts';
import { imageOf, type TestImage, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { Cri } from './cri.ts';
import { Daemon, isSince, PROGRAMS, skipWithoutContainers } from './daemon.ts';
import { documentsOf, HOST, ImageStage, newImage, RECORD, smallImage } from './image-stage.ts';
import { LayoutRegistry } from './layout-registry.ts';

const PIN = 'io.cri-containerd.pinned';
const OWN_PIN = 'unpackd.dev/pinned';
const isRefused = (error: unknown) => isSnapshotError(error, 'FailedPrecondition');

/** What of a record and of a pin outlives a pull by the kubelet, which replaces the labels of the name that it pulls. */
for (const program of PROGRAMS) {
  describe(`images in containerd ${program.version}, and pulls`, { skip: skipWithoutContainers() }, () => {
    const place = scratch();
    let stage: ImageStage;
    let cri: Cri;
    let registry: LayoutRegistry;
    const layout = (repository: string) => join(place.path, repository);
    const nameOf = (repository: string, tag = 'v1') => `${registry.address}/${repository}:${tag}`;
    const digestOf = (repository: string, image: TestImage) =>
      `${registry.address}/${repository}@${image.manifestDigest}`;

    before(async () => {
      const repositories = ['app', 'moved', 'twice'];
      registry = await LayoutRegistry.start(Object.fromEntries(repositories.map((name) => [name, layout(name)])));
      const daemon = await Daemon.start(program, { containers: { pauseImage: 'example.com/pause:1' } });
      cri = new Cri(daemon);
      await cri.ready();
      stage = new ImageStage(daemon);
    });
    after(async () => {
      await stage.daemon[Symbol.asyncDispose]();
      await registry[Symbol.asyncDispose]();
      place[Symbol.dispose]();
    });

    /** As the kubelet with `imagePullPolicy: Always`. Layers that unpackd has unpacked are not fetched. */
    const pull = (image: string) => cri.images.PullImage({ image: { image } });

    /** What the kubelet sees. The CRI service hears of a change of a label a moment later. */
    const seenAsPinned = (image: TestImage, pinned: boolean) =>
      eventually(`the kubelet sees pinned=${pinned}`, async () => {
        const { images } = await cri.images.ListImages({});
        // the CRI service of 1.6.20 knows no pins
        const expected = pinned && isSince(program.version, '2.0');
        return images.some(({ id, ...shown }) => id === image.configDigest && shown.pinned === expected);
      });

    const listed = async () =>
      (await stage.images.images()).map(({ reference, pinned }) => `${reference}${pinned ? ' pinned' : ''}`);

    /** Whether an image is pinned, and whether unpackd has pinned it. */
    const pinsOf = async (name: string) => {
      const labels = (await stage.labels(name)) ?? {};
      return [PIN in labels ? 'pinned' : '', OWN_PIN in labels ? 'by unpackd' : ''].join(' ').trim();
    };

    // also after a failed test, so that the others are not disturbed
    afterEach(async () => {
      for (const { name } of (await stage.client.images.List({})).images) await stage.client.images.Delete({ name });
      await stage.daemon.collect();
    });

    test('a pinned image stays pinned and recorded when its tag and its digest are pulled', async () => {
      const image = smallImage('pulled');
      await writeLayout(layout('app'), { v1: image });
      const name = nameOf('app');
      const key = newImage(name, image);
      await stage.record(name, image);
      await stage.images.pinImage(name, undefined, true);
      await seenAsPinned(image, true);
      for (const pulled of [name, digestOf('app', image)]) {
        await pull(pulled);
        assert.deepEqual(
          await stage.labels(pulled),
          { 'io.cri-containerd.image': 'managed' },
          'a pull takes all labels',
        );
        assert.equal(registry.takeLayerBytes('app'), 0);
        await seenAsPinned(image, true);
        assert.deepEqual(await listed(), [`${name} pinned`]);
        const [record] = await stage.images.images();
        assert.deepEqual([record?.source, record?.job], [RECORD.source, RECORD.job]);
        await assert.rejects(stage.images.removeImage(name), isRefused);
      }
      // the next job completes the record
      assert.equal((await stage.images.lookUpImage(key))?.used, undefined);
      await stage.record(name, image, { source: 'elsewhere', job: '8' });
      assert.ok((await stage.images.lookUpImage(key))?.used);
      assert.equal(await pinsOf(name), 'pinned by unpackd');
      const [record] = await stage.images.images();
      assert.deepEqual([record?.source, record?.job, record?.pinned], [RECORD.source, RECORD.job, true]);
      await stage.images.pinImage(name, undefined, false);
      await seenAsPinned(image, false);
      assert.deepEqual(await listed(), [name]);
    });

    test("a pulled image loses its pin and its record by unpin and rm, and is the puller's then", async () => {
      const image = smallImage('removed');
      await writeLayout(layout('app'), { v1: image });
      const name = nameOf('app');
      await stage.record(name, image);
      await stage.record('example.com/second:1', image);
      await stage.images.pinImage(name, undefined, true);
      await pull(name);
      await stage.images.pinImage(name, undefined, false);
      await seenAsPinned(image, false);
      assert.equal((await stage.images.removeImage(name)).length, 1);
      assert.deepEqual(await listed(), ['example.com/second:1']);
      assert.equal((await stage.images.removeImage('example.com/second:1')).length, 1);
      assert.deepEqual(await listed(), []);
      assert.equal(await stage.target(name), image.manifestDigest);
      assert.equal(
        await stage.target(digestOf('app', image)),
        image.manifestDigest,
        'CRI shows the digest of its image',
      );
      assert.equal(await stage.target('example.com/second:1'), undefined);
      assert.ok(await stage.hasSnapshot(image.chainId));
      for (const { name, labels } of (await stage.client.images.List({})).images) {
        const ours = Object.keys(labels).filter((label) => label.startsWith('unpackd.dev/') || label === PIN);
        assert.deepEqual(ours, name === image.configDigest ? ['unpackd.dev/made'] : [], name);
      }
      const { images: shown } = await cri.images.ListImages({});
      assert.ok(shown.some(({ id, repoTags }) => id === image.configDigest && repoTags.includes(name)));
      await cri.images.RemoveImage({ image: { image: name } });
      assert.deepEqual((await stage.client.images.List({})).images, []);
      assert.equal(await stage.hasSnapshot(image.chainId), false);
    });

    test('everything of a pinned image goes if CRI removes it', async () => {
      const image = smallImage('cri');
      await stage.record('example.com/cri:1', image);
      await stage.images.pinImage('example.com/cri:1', undefined, true);
      await cri.images.RemoveImage({ image: { image: 'example.com/cri:1' } });
      assert.deepEqual(await listed(), []);
      await stage.record('example.com/cri:1', image);
      assert.deepEqual(await listed(), ['example.com/cri:1']);
    });

    test('one of two tags of an image is pinned, and only its unpin takes the pin from the ID', async () => {
      const image = smallImage('two tags');
      await writeLayout(layout('twice'), { v1: image, v2: image });
      const [one, two] = [nameOf('twice', 'v1'), nameOf('twice', 'v2')];
      for (const name of [one, two]) await stage.record(name, image);
      await stage.images.pinImage(one, undefined, true);
      for (const name of [one, two]) await pull(name);
      assert.deepEqual(await listed(), [`${one} pinned`, two]);
      await stage.images.pinImage(two, undefined, true);
      await stage.images.pinImage(one, undefined, false);
      assert.deepEqual(await listed(), [one, `${two} pinned`]);
      await seenAsPinned(image, true);
      await stage.images.removeImage(one);
      await seenAsPinned(image, true);
      await stage.images.pinImage(two, undefined, false);
      await seenAsPinned(image, false);
    });

    test('a pull that moves a pinned tag leaves the pin to the earlier image, until the next job moves it', async () => {
      const [old, next] = [smallImage('old tag'), smallImage('new tag')];
      const name = nameOf('moved');
      await writeLayout(layout('moved'), { v1: next });
      await stage.record(name, old);
      await stage.images.pinImage(name, undefined, true);
      await stage.record('example.com/next:1', next); // so the pull fetches no layer
      await pull(name);
      assert.equal(await stage.target(name), next.manifestDigest);
      assert.deepEqual(await listed(), [`${digestOf('moved', old)} pinned`, 'example.com/next:1']);
      await seenAsPinned(old, true);
      await seenAsPinned(next, false);
      await assert.rejects(stage.images.removeImage(digestOf('moved', old)), isRefused);
      await stage.record(name, next);
      assert.deepEqual(await listed(), [`${name} pinned`, digestOf('moved', old), 'example.com/next:1']);
      await seenAsPinned(old, false);
      await seenAsPinned(next, true);
      await stage.images.removeImage(digestOf('moved', old));
      assert.deepEqual(
        [await stage.target(old.configDigest), await stage.hasSnapshot(old.chainId)],
        [undefined, false],
      );
      assert.deepEqual(await listed(), [`${name} pinned`, 'example.com/next:1']);
    });

    test('the pin that a moved tag has left is taken away under the name with the digest', async () => {
      const [old, next] = [smallImage('left'), smallImage('left for')];
      await stage.record('example.com/next:1', next);
      await stage.record('example.com/left:1', old);
      await stage.images.pinImage('example.com/left:1', undefined, true);
      await stage.client.images.Update({
        image: { name: 'example.com/left:1', target: next.manifest, labels: {} },
        updateMask: { paths: ['target', 'labels'] },
      });
      const aside = `example.com/left@${old.manifestDigest}`;
      assert.deepEqual(await listed(), [`${aside} pinned`, 'example.com/next:1']);
      await stage.images.pinImage(aside, undefined, false);
      await seenAsPinned(old, false);
      await stage.images.removeImage(aside);
      assert.equal(await stage.target(old.configDigest), undefined);
    });

    test('a pinned image whose names somebody has removed is listed, and can be removed', async () => {
      const image = smallImage('names gone');
      await stage.record('example.com/gone:1', image);
      await stage.images.pinImage('example.com/gone:1', undefined, true);
      const aside = `example.com/gone@${image.manifestDigest}`;
      for (const name of ['example.com/gone:1', aside]) {
        await stage.client.images.Delete({ name });
        assert.deepEqual(await listed(), [`${aside} pinned`]);
      }
      await stage.images.pinImage(aside, undefined, false);
      await stage.images.removeImage(aside);
      assert.deepEqual(await stage.target(image.configDigest), undefined);
      await stage.removeAll();
    });

    test('the pins of other programs stay', async () => {
      const image = smallImage('foreign pin');
      const name = 'example.com/foreign:1';
      for (const pinned of [[name], [image.configDigest], [name, image.configDigest]]) {
        await stage.record(name, image);
        for (const each of pinned) await stage.setLabels(each, { [PIN]: 'pinned' });
        assert.deepEqual(await listed(), [`${name} pinned`]);
        await stage.images.pinImage(name, undefined, true);
        await stage.record(name, image);
        await assert.rejects(stage.images.pinImage(name, undefined, false), /another program has pinned it/);
        for (const each of [name, image.configDigest]) {
          assert.equal(await pinsOf(each), pinned.includes(each) ? 'pinned' : '', each);
        }
        await assert.rejects(stage.images.removeImage(name), isRefused);
        for (const each of pinned) await stage.setLabels(each, { [PIN]: '' });
        await stage.removeAll();
      }
    });

    test('what an earlier version has recorded and pinned is found, and the next job completes it', async () => {
      const image = smallImage('earlier');
      const name = 'example.com/earlier:1';
      /** Takes away what earlier versions did not write. */
      const asEarlier = async () => {
        await stage.record(name, image);
        for (const each of [name, `example.com/earlier@${image.manifestDigest}`]) {
          const { 'unpackd.dev/image/linux/amd64': text = '' } = (await stage.labels(each)) ?? {};
          const { name: _, ...label } = JSON.parse(text);
          await stage.setLabels(each, { 'unpackd.dev/image/linux/amd64': JSON.stringify(label) });
        }
        const onId = Object.keys((await stage.labels(image.configDigest)) ?? {});
        const added = onId.filter((key) => key.startsWith('unpackd.dev/name/'));
        assert.equal(added.length, 1);
        await stage.setLabels(image.configDigest, Object.fromEntries(added.map((key) => [key, ''])));
        await stage.setLabels(name, { [PIN]: 'pinned' });
      };
      await asEarlier();
      assert.deepEqual(await listed(), [`${name} pinned`]);
      await assert.rejects(stage.images.removeImage(name), isRefused);
      await stage.images.pinImage(name, undefined, false);
      assert.equal((await stage.images.removeImage(name)).length, 1);
      await stage.removeAll();

      await asEarlier();
      assert.equal((await stage.images.lookUpImage(newImage(name, image)))?.used, undefined);
      await stage.record(name, image);
      assert.ok((await stage.images.lookUpImage(newImage(name, image)))?.used);
      for (const each of [name, image.configDigest]) assert.equal(await pinsOf(each), 'pinned by unpackd');
      await stage.images.pinImage(name, undefined, false);
      for (const each of [name, image.configDigest]) assert.equal(await pinsOf(each), '');
      await stage.removeAll();

      await asEarlier();
      await stage.images.pinImage(name, undefined, true);
      for (const each of [name, image.configDigest]) assert.equal(await pinsOf(each), 'pinned by unpackd');
      await stage.images.pinImage(name, undefined, false);
      await stage.removeAll();
    });

    test('a name that somebody has copied is not ours', async () => {
      const image = smallImage('copy');
      await stage.record('example.com/copied:1', image);
      await stage.daemon.ctr('k8s.io', 'images', 'tag', 'example.com/copied:1', 'example.com/copy:1');
      assert.deepEqual(await listed(), ['example.com/copied:1']);
      await stage.images.removeImage('example.com/copied:1');
      assert.equal(await stage.target('example.com/copy:1'), image.manifestDigest);
      assert.ok(await stage.hasSnapshot(image.chainId));
    });

    test('a pin, an unpin, a record or a removal that stops at any call is completed by the next one', async () => {
      const [old, next] = [smallImage('stops'), smallImage('stops next')];
      const name = 'example.com/stops:1';
      const aside = `example.com/stops@${old.manifestDigest}`;
      const { images } = stage;
      const withNext = (call: () => Promise<unknown>) => stage.withLayers(next, call);
      const changes: readonly {
        readonly what: string;
        readonly isPinned: boolean;
        readonly change: (with_: typeof images) => Promise<unknown>;
        readonly end: readonly string[];
      }[] = [
        { what: 'pin', isPinned: false, change: (i) => i.pinImage(name, undefined, true), end: [`${name} pinned`] },
        { what: 'unpin', isPinned: true, change: (i) => i.pinImage(name, undefined, false), end: [name] },
        {
          what: 'record',
          isPinned: true,
          change: (i) => withNext(() => i.recordImage(newImage(name, next), documentsOf(next))),
          end: [`${name} pinned`, aside],
        },
      ];
      for (const { what, isPinned, change, end } of changes) {
        for (let call = 1, isStopped = true; isStopped; call += 1) {
          await stage.record(name, old);
          if (isPinned) await images.pinImage(name, undefined, true);
          const client = stoppingAt(stage.client, call);
          isStopped = await isStoppedBy(change(stage.imagesWith(client)));
          if (isStopped && isPinned && what === 'record') {
            const pinned = (await images.images()).filter((one) => one.pinned);
            assert.ok(pinned.length > 0, `${what} ${call}: somebody must stay pinned`);
          }
          await change(images);
          assert.deepEqual(await listed(), end, `${what} ${call}`);
          for (const each of [
            name,
            (await stage.target(name)) === old.manifestDigest ? old.configDigest : next.configDigest,
          ]) {
            assert.equal(await pinsOf(each), what === 'unpin' ? '' : 'pinned by unpackd', `${what} ${call} ${each}`);
          }
          if (what === 'record') assert.equal(await pinsOf(old.configDigest), '', `${what} ${call}`);
          await stage.removeAll();
        }
      }
      for (let call = 1, isStopped = true; isStopped; call += 1) {
        await stage.record(name, old);
        isStopped = await isStoppedBy(stage.imagesWith(stoppingAt(stage.client, call)).removeImage(name));
        await stage.removeAll();
      }
    });

    test('two images with one config and other manifests are pinned each by its own name', async () => {
      const gzip = smallImage('one config');
      const other = imageOf(gzip.layers, HOST, { annotations: { other: 'manifest' } });
      await stage.record('example.com/gzip:1', gzip);
      await stage.record('example.com/other:1', other);
      await stage.images.pinImage('example.com/other:1', undefined, true);
      assert.deepEqual(await listed(), ['example.com/gzip:1', 'example.com/other:1 pinned']);
      await stage.images.removeImage('example.com/gzip:1');
      await seenAsPinned(gzip, true);
      await stage.images.pinImage('example.com/other:1', undefined, false);
      await stage.removeAll();
    });
  });
}

class Stopped extends Error {}

/** A client whose call of this number to the images is not made, nor is any later one: its process is dead. */
function stoppingAt(client: ContainerdClient, last: number): ContainerdClient {
  let calls = 0;
  const images = new Proxy(client.images, {
    get: (target, name) => {
      const call: unknown = Reflect.get(target, name);
      if (typeof call !== 'function') return call;
      return (...args: readonly unknown[]) => {
        calls += 1;
        return calls >= last ? Promise.reject(new Stopped()) : Reflect.apply(call, target, args);
      };
    },
  });
  return { ...client, images };
}

async function isStoppedBy(change: Promise<unknown>): Promise<boolean> {
  try {
    await change;
    return false;
  } catch (error) {
    if (error instanceof Stopped) return true;
    throw error;
  }
}
