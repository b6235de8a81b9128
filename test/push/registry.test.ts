import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { resolveImages } from '../../src/image/resolve.ts';
import type { Descriptor } from '../../src/oci/descriptor.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { pushImage } from '../../src/push/push.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { readBlob } from '../../src/source/read-blob.ts';
import { BUCKET, startTestBucket, type TestBucket } from '../support/bucket.ts';
import { buildImage, buildIndex, json } from '../support/image-builder.ts';
import { skipWithout } from '../support/present.ts';
import { type Registry, startRegistry } from '../support/registry.ts';

const MiB = 1024 * 1024;

/** The CNCF Distribution registry with its S3 driver uses the same bucket as unpackd. */
describe('a real registry', { skip: skipWithout('docker-registry') }, () => {
  let bucket: TestBucket;
  let folder: string;
  let registry: Registry;
  let origin: string;

  before(async () => {
    bucket = await startTestBucket();
    folder = await mkdtemp(join(tmpdir(), 'unpackd-registry-'));
    registry = await startRegistry(bucket.server, BUCKET, 'mirror');
    origin = registry.origin;
  });
  after(async () => {
    await registry.close();
    await bucket.close();
    await rm(folder, { recursive: true, force: true });
  });

  const layout = { kind: 'distribution', repository: 'library/app' } as const;

  /** Pushes a blob as in the distribution spec: POST, PATCH in two chunks, PUT. */
  async function putBlob(bytes: Uint8Array, mediaType: string): Promise<Descriptor> {
    const digest = digestOf(bytes);
    let response = await fetch(`${origin}/v2/library/app/blobs/uploads/`, { method: 'POST' });
    for (const part of [bytes.subarray(0, bytes.length / 2), bytes.subarray(bytes.length / 2)]) {
      const upload = new URL(response.headers.get('location') ?? '', origin);
      response = await fetch(upload, { method: 'PATCH', body: Buffer.from(part) });
      assert.equal(response.status, 202, await response.text());
    }
    const upload = new URL(response.headers.get('location') ?? '', origin);
    upload.searchParams.set('digest', digest);
    const done = await fetch(upload, { method: 'PUT' });
    assert.equal(done.status, 201, await done.text());
    return { mediaType, digest, size: bytes.length };
  }
  async function putManifest(bytes: Uint8Array, mediaType: string, tag?: string): Promise<Descriptor> {
    const digest = digestOf(bytes);
    const url = `${origin}/v2/library/app/manifests/${tag ?? digest}`;
    const response = await fetch(url, {
      method: 'PUT',
      headers: { 'content-type': mediaType },
      body: Buffer.from(bytes),
    });
    assert.equal(response.status, 201, await response.text());
    return { mediaType, digest, size: bytes.length };
  }
  const put = (bytes: Uint8Array, mediaType: string) =>
    /manifest|index/.test(mediaType) ? putManifest(bytes, mediaType) : putBlob(bytes, mediaType);

  test('writes images that can be resolved and read from its bucket', async () => {
    // 40 MiB: the registry moves a finished upload in parts
    const layers = [randomBytes(40 * MiB), Buffer.from('top')];
    const amd64 = { ...(await buildImage(put, { layers })), platform: { os: 'linux', architecture: 'amd64' } };
    const index = await buildIndex((bytes, mediaType) => putManifest(bytes, mediaType, 'v1'), [amd64]);
    const source = openSource(bucket.spec({ layout }));
    const platforms = [{ os: 'linux', architecture: 'amd64' }];
    const [image] = await resolveImages(source, { target: { kind: 'tag', tag: 'v1' }, platforms });
    assert.equal(image?.manifestDigest, amd64.digest);
    assert.equal((await source.resolveTag('v1')).digest, index.digest);
    for (const [number, { blob }] of (image?.layers ?? []).entries()) {
      assert.deepEqual(await readBlob(source, blob, { limit: 64 * MiB }), layers[number]);
    }
    source.close();
  });

  test('serves images that unpackd pushed into its bucket', async () => {
    const archive = join(folder, 'layout');
    await mkdir(join(archive, 'blobs/sha256'), { recursive: true });
    const local = async (bytes: Uint8Array, mediaType: string) => {
      const digest = digestOf(bytes);
      await writeFile(join(archive, 'blobs/sha256', digest.slice(7)), bytes);
      return { mediaType, digest, size: bytes.length };
    };
    const layer = randomBytes(100_000);
    const image = await buildImage(local, { layers: [layer] });
    await writeFile(join(archive, 'index.json'), json({ schemaVersion: 2, manifests: [image] }));
    await pushImage({
      path: archive,
      bucket: BUCKET,
      prefix: 'mirror',
      layout,
      tag: 'pushed',
      connection: bucket.connection(),
    });

    const manifest = await fetch(`${origin}/v2/library/app/manifests/pushed`, { headers: { accept: image.mediaType } });
    assert.equal(manifest.status, 200);
    assert.equal(manifest.headers.get('docker-content-digest'), image.digest);
    const blob = await fetch(`${origin}/v2/library/app/blobs/${digestOf(layer)}`);
    assert.deepEqual(Buffer.from(await blob.arrayBuffer()), layer);
    const tags: unknown = await (await fetch(`${origin}/v2/library/app/tags/list`)).json();
    assert.ok(JSON.stringify(tags).includes('"pushed"'));
  });
});
