import '../support/needs-root.ts';
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { imageIndex, imageManifest, layoutHead } from '../../dev/image-documents.ts';
import { UnpackError } from '../../src/errors.ts';
import type { ImageRequest } from '../../src/image/request.ts';
import { createUnpacker } from '../../src/image/unpacker.ts';
import { digestOf, hexOf } from '../../src/oci/digest.ts';
import { OCI_CONFIG, OCI_INDEX, OCI_MANIFEST } from '../../src/oci/media-type.ts';
import { hostPlatform } from '../../src/oci/platform.ts';
import { openContainerdStore } from '../../src/snapshots/containerd/open.ts';
import type { ContainerdStore } from '../../src/snapshots/containerd/store.ts';
import { SETTINGS } from '../support/apply.ts';
import { tmpfs, unavailable } from '../support/file-system.ts';
import { imageOf, layerOf, type TestImage, writeLayout } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';
import { Daemon, isSince, PROGRAMS, skipWithoutContainerd } from './daemon.ts';
import { freshOptions } from './temporary-store.ts';

const FOREIGN = { os: 'linux', architecture: 's390x' };
const imageWith = (word: string, platform = hostPlatform()): TestImage =>
  imageOf([layerOf(tar(file('base', 'base'))), layerOf(tar(file('word', word)))], platform);
const [one, other, foreign] = [imageWith('one'), imageWith('other'), imageWith('foreign', FOREIGN)];

for (const program of PROGRAMS) {
  describe(`the images of jobs in containerd ${program.version}`, { skip: skipWithoutContainerd() }, () => {
    let daemon: Daemon;
    before(async () => {
      daemon = await Daemon.start(program);
    });
    after(() => daemon[Symbol.asyncDispose]());

    /** A store in a namespace of its own, and an unpacker of the images in a layout. */
    async function stage(images: Readonly<Record<string, TestImage>>, at = daemon) {
      const place = scratch();
      const path = join(place.path, 'layout');
      await writeLayout(path, images);
      const options = freshOptions(at, join(place.path, 'state'));
      const client = at.client(options.namespace);
      const store = await openContainerdStore(options);
      const unpacker = createUnpacker(store, { threads: 2, apply: SETTINGS });
      const wanted = (request: ImageRequest, image: string) =>
        ({ image, source: { kind: 'oci-layout', path }, request }) as const;
      return {
        path,
        store,
        client,
        unpacker,
        wanted,
        unpack: async (request: ImageRequest, image = 'example.com/app:1') => {
          const found = await unpacker.lookUp(wanted(request, image));
          return found.existing ?? (await unpacker.unpack(found));
        },
        names: async () => (await client.images.List({})).images.map(({ name }) => name).sort(),
        async [Symbol.asyncDispose]() {
          await unpacker.close();
          await store.close();
          place[Symbol.dispose]();
        },
      };
    }
    const byTag = (tag: string): ImageRequest => ({ target: { kind: 'tag', tag } });

    test('have the names that the result tells, also when another job has unpacked the layers', async () => {
      await using s = await stage({ one });
      for (const image of ['example.com/app:1', 'alpine', 'example.com/app:2']) {
        const [result] = await s.unpack(byTag('one'), image);
        const names = result?.names ?? [];
        assert.equal(names.length, 3);
        for (const name of names) assert.ok((await s.names()).includes(name), name);
      }
      await daemon.collect();
      assert.equal((await s.store.images()).length, 3);
      assert.ok(await s.store.has(one.chainId));
    });

    test('fail with INVALID_JOB before anything is read if the name cannot be one', async () => {
      await using s = await stage({ one });
      rmSync(s.path, { recursive: true });
      const isWrong = (error: unknown) => error instanceof UnpackError && error.code === 'INVALID_JOB';
      await assert.rejects(s.unpack(byTag('one'), 's3://bucket/app:1'), isWrong);
      const cached = s.unpacker.lookUpCached(s.wanted(byTag('one'), 'Example/App'));
      await assert.rejects(cached, isWrong);
    });

    test('fail with INVALID_JOB before a layer is read if the name has the digest of another image', async () => {
      await using s = await stage({ one, other });
      for (const { blob } of one.layers) rmSync(join(s.path, 'blobs/sha256', hexOf(blob.digest)));
      await assert.rejects(
        s.unpack(byTag('one'), `example.com/app@${other.manifestDigest}`),
        (error) => error instanceof UnpackError && error.code === 'INVALID_JOB',
      );
      assert.deepEqual(await s.names(), []);
    });

    const knowsSha512 = isSince(program.version, '2.3') && 'this containerd writes blobs with digests of SHA-512';
    test('fail before a layer is read if containerd cannot keep a document', { skip: knowsSha512 }, async () => {
      for (const document of ['index', 'manifest', 'config'] as const) {
        await using s = await stage({ one });
        rmSync(join(s.path, 'blobs/sha256'), { recursive: true });
        const target = writeWithSha512(s.path, document);
        for (const platforms of ['all', undefined] as const) {
          await assert.rejects(
            s.unpack({ target, ...(platforms && { platforms }) }),
            (error) => {
              assert.ok(error instanceof UnpackError && error.code === 'LIMIT_EXCEEDED', String(error));
              assert.match(
                error.message,
                /^containerd cannot keep document sha512:.*: push the image with SHA-256 digests$/,
              );
              return true;
            },
            document,
          );
        }
        await daemon.collect();
        assert.deepEqual(await s.names(), []);
        assert.equal(await s.store.document(target.digest), undefined);
      }
    });

    test('fail before a layer is read if a document is too large for a message', async () => {
      const large = imageOf(one.layers, hostPlatform(), { annotations: { long: 'x'.repeat(100_000) } });
      await using strict = await Daemon.start(program, { grpc: 'max_recv_message_size = 65536' });
      await using s = await stage({ large }, strict);
      for (const { blob } of one.layers) rmSync(join(s.path, 'blobs/sha256', hexOf(blob.digest)));
      await assert.rejects(s.unpack(byTag('large')), (error) => {
        assert.ok(error instanceof UnpackError && error.code === 'LIMIT_EXCEEDED', String(error));
        assert.match(error.message, /^containerd cannot keep document .*: raise grpc.max_recv_message_size/);
        return true;
      });
    });

    test('tell on a full disk what frees space in containerd', {
      skip: unavailable(() => tmpfs('size=64m')),
    }, async () => {
      using disk = tmpfs('size=64m');
      await using full = await Daemon.start(program, { below: disk.path });
      // the blob of zeros tells nothing about the size of its files
      const zeros = imageOf([layerOf(tar(file('zeros', Buffer.alloc(80 << 20))))], hostPlatform());
      const random = imageOf([layerOf(tar(file('random', randomBytes(70 << 20))), 'none')], hostPlatform());
      await using s = await stage({ zeros, random }, full);
      for (const tag of ['zeros', 'random']) {
        await assert.rejects(s.unpack(byTag(tag)), (error) => {
          assert.ok(error instanceof UnpackError && error.code === 'STORE_FULL', String(error));
          assert.match(error.message, /\(to free space: unpackd images rm, ctr images rm, crictl rmi --prune\)$/);
          assert.doesNotMatch(error.message, /unpackd (?:gc|snapshots)|UNPACK_GC/);
          return true;
        });
      }
      await full.collect();
      assert.deepEqual(await s.store.walk(), []);
    });

    test('of all platforms are below the tag of their index', async () => {
      await using s = await stage({ one, foreign });
      const bytes = imageIndex([
        { ...one.manifest, platform: hostPlatform() },
        { ...foreign.manifest, platform: FOREIGN },
      ]);
      const outer = imageIndex([{ mediaType: OCI_INDEX, digest: digestOf(bytes), size: bytes.length }]);
      for (const each of [bytes, outer]) writeFileSync(join(s.path, 'blobs/sha256', hexOf(digestOf(each))), each);
      const target = { kind: 'manifest', digest: digestOf(outer) } as const;
      const results = await s.unpack({ target, platforms: 'all' });
      const index = digestOf(outer);
      assert.deepEqual(
        results.map(({ names }) => names),
        [one, foreign].map(({ configDigest }) => ['example.com/app:1', `example.com/app@${index}`, configDigest]),
      );
      await daemon.collect();
      const listed = (await s.store.images()).map(({ reference, platform, broken }) => [reference, platform, broken]);
      assert.deepEqual(listed.length, 2);
      for (const { chainId } of [one, foreign]) assert.ok(await s.store.has(chainId));
      for (const digest of [digestOf(bytes), index]) assert.ok(await s.store.document(digest), 'nested indexes too');
      // a look at it makes nothing new
      const again = await s.unpacker.lookUpCached(s.wanted({ target, platforms: 'all' }, 'example.com/app:1'));
      assert.equal(again?.length, 2);
    });

    test('that share a tag without an index are all recorded, the tag for this machine', async () => {
      await using s = await stage({ one, foreign });
      const head = layoutHead([
        ['both', { ...foreign.manifest, platform: FOREIGN }],
        ['both', { ...one.manifest, platform: hostPlatform() }],
      ]);
      for (const [name, bytes] of head) writeFileSync(join(s.path, name), bytes);
      const results = await s.unpack({ ...byTag('both'), platforms: 'all' });
      assert.deepEqual(
        results.map(({ names }) => names[0]),
        [`example.com/app@${foreign.manifestDigest}`, 'example.com/app:1'],
      );
      const { image } = await s.client.images.Get({ name: 'example.com/app:1' });
      assert.equal(image?.target?.digest, one.manifestDigest);
    });

    test('of explicit layers stay without an image, until they are removed', async () => {
      await using s = await stage({ one });
      const request: ImageRequest = { target: { kind: 'layers', layers: one.layers } };
      const [result] = await s.unpack(request, 'example.com/layers');
      assert.deepEqual(result?.names, []);
      assert.deepEqual(await s.names(), []);
      await daemon.collect();
      assert.ok(await s.store.has(one.chainId));
      assert.deepEqual((await s.store.stat(one.chainId)).labels['containerd.io/gc.root'], undefined);
      assert.ok(await s.unpacker.lookUpCached(s.wanted(request, 'example.com/layers')));
      assert.equal((await s.store.removeImage('example.com/layers')).length, 1);
      assert.equal(await s.store.has(one.chainId), false);
    });

    test('are recorded again after somebody has removed a name, without reading a layer', async () => {
      await using s = await stage({ one });
      await s.unpack(byTag('one'));
      for (const { blob } of one.layers) rmSync(join(s.path, 'blobs/sha256', hexOf(blob.digest)));
      for (const name of await s.names()) {
        await s.client.images.Delete({ name });
        await s.unpack(byTag('one'));
        assert.equal((await s.names()).length, 3, name);
      }
    });

    test('that stop in the middle leave nothing after a collection', async () => {
      await using s = await stage({ one });
      const top = join(s.path, 'blobs/sha256', hexOf(one.layers[1]?.blob.digest ?? one.manifestDigest));
      const bytes = readFileSync(top);
      writeFileSync(top, Buffer.alloc(bytes.length));
      await assert.rejects(s.unpack(byTag('one')));
      await daemon.collect();
      assert.deepEqual(await s.store.walk(), []);
      assert.deepEqual(await s.names(), []);
      writeFileSync(top, bytes);
      assert.equal((await s.unpack(byTag('one'))).length, 1);
    });

    test('are recorded by many jobs with other names at the same time', async () => {
      await using s = await stage({ one, other });
      const jobs = Array.from(
        { length: 24 },
        (_, n) => [n % 2 === 0 ? 'one' : 'other', `example.com/n:${n % 5}`] as const,
      );
      await Promise.all(jobs.map(([tag, image]) => s.unpack(byTag(tag), image)));
      await daemon.collect();
      for (const { chainId } of [one, other]) assert.ok(await s.store.has(chainId));
      for (const { reference, broken } of await s.store.images()) assert.equal(broken, undefined, reference);
      await removeAll(s.store);
      assert.deepEqual(await s.names(), []);
      assert.deepEqual(await s.store.walk(), []);
    });
  });
}

/** Writes an image without its layers, one document of which has a digest of SHA-512. */
function writeWithSha512(path: string, which: 'index' | 'manifest' | 'config') {
  const put = (bytes: Buffer, algorithm: 'sha256' | 'sha512' = 'sha256') => {
    const digest = digestOf(bytes, algorithm);
    mkdirSync(join(path, 'blobs', algorithm), { recursive: true });
    writeFileSync(join(path, 'blobs', algorithm, hexOf(digest)), bytes);
    return { digest, size: bytes.length };
  };
  const algorithm = (document: string) => (document === which ? 'sha512' : 'sha256');
  const config = put(one.blobs.get(one.configDigest) ?? Buffer.alloc(0), algorithm('config'));
  const layers = one.layers.map(({ blob }) => blob);
  const manifest = put(imageManifest({ mediaType: OCI_CONFIG, ...config }, layers), algorithm('manifest'));
  const platform = hostPlatform();
  const index = put(imageIndex([{ mediaType: OCI_MANIFEST, ...manifest, platform }]), algorithm('index'));
  return { kind: 'manifest', digest: index.digest } as const;
}

async function removeAll(store: ContainerdStore): Promise<void> {
  for (let images = await store.images(); images.length > 0; images = await store.images()) {
    for (const reference of new Set(images.map((image) => image.reference))) await store.removeImage(reference);
  }
}
