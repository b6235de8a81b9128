import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import type { Descriptor } from '../../src/oci/descriptor.ts';
import { type BlobDigest, digestOf, hexOf } from '../../src/oci/digest.ts';
import type { BlobSource } from '../../src/source/blob-source.ts';
import { fetchBlob } from '../../src/source/fetch.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { readBlob } from '../../src/source/read-blob.ts';
import { fails } from '../support/fails.ts';
import { readAll } from '../support/lent.ts';

const LIMIT = 8 * 1024 * 1024;

describe('a layout folder', () => {
  const content = randomBytes(1_000_000);
  let folder: string;
  let source: BlobSource;
  let blob: Pick<Descriptor, 'digest' | 'size'>;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'unpackd-layout-'));
    await mkdir(join(folder, 'blobs/sha256'), { recursive: true });
    source = openSource({ kind: 'oci-layout', path: folder });
    blob = { digest: digestOf(content), size: content.length };
    await writeFile(pathOf(blob.digest), content);
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  const pathOf = (digest: BlobDigest) => join(folder, 'blobs/sha256', hexOf(digest));

  test('has verified blobs', async () => {
    assert.ok((await readBlob(source, blob, { limit: LIMIT })).equals(content));
  });

  test('reads a blob from an offset on', async () => {
    const { chunks, offset, size } = await source.open(blob.digest, { offset: 999_990 });
    const rest = await readAll(chunks);
    assert.deepEqual([offset, size, rest], [999_990, content.length, content.subarray(999_990)]);
  });

  test('finds tags in index.json', async () => {
    const annotations = { 'org.opencontainers.image.ref.name': 'v1' };
    const entry = { mediaType: 'application/vnd.oci.image.manifest.v1+json', ...blob, annotations };
    await fails('IMAGE_NOT_FOUND', source.resolveTag('v1'));
    await writeFile(join(folder, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
    assert.equal((await source.resolveTag('v1')).digest, blob.digest);
    await fails('IMAGE_NOT_FOUND', source.resolveTag('v2'));
    await writeFile(join(folder, 'index.json'), 'nothing');
    await fails('MANIFEST_INVALID', source.resolveTag('v1'));
    await truncate(join(folder, 'index.json'), LIMIT);
    await fails('LIMIT_EXCEEDED', source.resolveTag('v1'));
  });

  test('fails with BLOB_NOT_FOUND for a missing blob and for one that is not a file', async () => {
    const other = digestOf(Buffer.from('other'));
    await fails('BLOB_NOT_FOUND', readBlob(source, other, { limit: LIMIT }));
    await mkdir(pathOf(other));
    await fails('BLOB_NOT_FOUND', readBlob(source, other, { limit: LIMIT }));
    const fifo = digestOf(Buffer.from('fifo'));
    execFileSync('mkfifo', [pathOf(fifo)]);
    await fails('BLOB_NOT_FOUND', readBlob(source, fifo, { limit: LIMIT }));
  });

  test('fails with SOURCE_DENIED without permission', {
    skip: process.geteuid?.() === 0 && 'root may read all',
  }, async () => {
    await chmod(pathOf(blob.digest), 0);
    await fails('SOURCE_DENIED', readBlob(source, blob, { limit: LIMIT }));
  });

  test('refuses other bytes and other sizes', async () => {
    await writeFile(pathOf(blob.digest), randomBytes(content.length));
    await fails('BLOB_DIGEST_MISMATCH', readBlob(source, blob, { limit: LIMIT }));
    await truncate(pathOf(blob.digest), 10);
    await fails('BLOB_SIZE_MISMATCH', readBlob(source, blob, { limit: LIMIT }));
  });

  test('closes its files, however a read ends', async () => {
    const before = (await readdir('/proc/self/fd')).length;
    const abort = new AbortController();
    for await (const _ of fetchBlob(source, blob)) break;
    for await (const _ of fetchBlob(source, blob));
    await fails('BLOB_SIZE_MISMATCH', readBlob(source, { ...blob, size: 5 }, { limit: LIMIT }));
    const reading = fetchBlob(source, blob, { signal: abort.signal });
    await reading.next();
    abort.abort();
    await fails('INTERNAL', reading.next());
    assert.equal((await readdir('/proc/self/fd')).length, before);
  });
});
