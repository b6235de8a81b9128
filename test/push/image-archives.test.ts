import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { resolveImages } from '../../src/image/resolve.ts';
import { digestOf, hexOf } from '../../src/oci/digest.ts';
import { type PushedImage, type PushOptions, pushImage } from '../../src/push/push.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { BUCKET, startTestBucket, type TestBucket } from '../support/bucket.ts';
import { fails } from '../support/fails.ts';
import { tmpfs, unavailable } from '../support/file-system.ts';
import { json } from '../support/image-builder.ts';
import { skipWithout } from '../support/present.ts';
import { scratch } from '../support/scratch.ts';
import { file, gnuLong, hardlink, type Member, member, symlink, tar } from '../support/tar.ts';

/** Archives of various tools are pushed, and then resolved from the bucket, as in a worker. */
const one = tar(file('etc/hello', 'hi'));
const two = tar(file('etc/two', 'hi'));
const REF_NAME = 'org.opencontainers.image.ref.name';
const GZIP = 'application/vnd.oci.image.layer.v1.tar+gzip';

function config(layers: readonly Buffer[], architecture = 'amd64'): Buffer {
  const diffs = layers.map((layer) => digestOf(layer));
  return json({ os: 'linux', architecture, config: {}, rootfs: { type: 'layers', diff_ids: diffs } });
}

/** The files of an archive with the `manifest.json` of `docker save`. */
function saved(
  Config: string,
  Layers: readonly string[] | null,
  members: readonly (Member | Buffer)[],
  RepoTags: readonly string[] | null = ['example.com/app:1'],
): Buffer {
  return tar(...members, file('manifest.json', json([{ Config, RepoTags, Layers }])));
}

const plain = saved('c.json', ['l/layer.tar'], [file('c.json', config([one])), file('l/layer.tar', one)]);

/** The blobs of an OCI layout, by their digest. */
class Layout {
  readonly files = new Map<string, Buffer>([['oci-layout', json({ imageLayoutVersion: '1.0.0' })]]);
  readonly manifests: object[] = [];

  blob(bytes: Buffer, mediaType: string, more: object = {}) {
    this.files.set(`blobs/sha256/${hexOf(digestOf(bytes))}`, bytes);
    return { mediaType, digest: digestOf(bytes), size: bytes.length, ...more };
  }

  image(layer: Buffer, architecture = 'amd64') {
    const image = {
      schemaVersion: 2,
      config: this.blob(config([layer], architecture), 'application/vnd.oci.image.config.v1+json'),
      layers: [this.blob(gzipSync(layer), GZIP)],
    };
    return this.blob(json(image), 'application/vnd.oci.image.manifest.v1+json', {
      platform: { os: 'linux', architecture },
    });
  }

  index(manifests: readonly object[]) {
    return this.blob(json({ schemaVersion: 2, manifests }), 'application/vnd.oci.image.index.v1+json');
  }

  list(image: object, annotations: Readonly<Record<string, string>> = {}): this {
    this.manifests.push({ ...image, annotations });
    return this;
  }

  write(folder: string): string {
    this.files.set('index.json', json({ schemaVersion: 2, manifests: this.manifests }));
    for (const [name, bytes] of this.files) {
      mkdirSync(dirname(join(folder, name)), { recursive: true });
      writeFileSync(join(folder, name), bytes);
    }
    return folder;
  }

  tar(prefix = ''): Buffer {
    this.files.set('index.json', json({ schemaVersion: 2, manifests: this.manifests }));
    return tar(...[...this.files].map(([name, bytes]) => file(`${prefix}${name}`, bytes)));
  }
}

describe('push of archives of various tools', { timeout: 120_000 }, () => {
  let bucket: TestBucket;
  let count = 0;
  before(async () => {
    bucket = await startTestBucket();
  });
  after(() => bucket.close());

  const push = (path: string, options: Partial<PushOptions> = {}): Promise<PushedImage> => {
    count += 1;
    return pushImage({
      path,
      bucket: BUCKET,
      prefix: `archives/${count}`,
      connection: bucket.connection(),
      ...options,
    });
  };
  /** The digests of the layers that the bucket now has for a tag or digest. */
  const layersOf = async (pushed: PushedImage, architecture = 'amd64') => {
    const source = openSource(bucket.spec({ prefix: `archives/${count}` }));
    const target = { kind: 'tag', tag: pushed.tag ?? '' } as const;
    const platforms = [{ os: 'linux', architecture }];
    const [image] = await resolveImages(source, { target, platforms }).finally(() => source.close());
    for (const { blob } of image?.layers ?? []) {
      const there = await fetch(
        `${bucket.server.endpoint}/${BUCKET}/archives/${count}/blobs/sha256/${hexOf(blob.digest)}`,
      );
      assert.equal(digestOf(Buffer.from(await there.arrayBuffer())), blob.digest);
    }
    return image?.layers.map(({ diff, blob }) => [diff.digest as string, blob.mediaType.split('tar')[1]]);
  };
  const pushBytes = async (bytes: Buffer, name = 'archive', options: Partial<PushOptions> = {}) => {
    using folder = scratch();
    const path = join(folder.path, name);
    writeFileSync(path, bytes);
    return await push(path, options);
  };
  const [ONE, TWO] = [digestOf(one) as string, digestOf(two) as string];

  const archives: Readonly<Record<string, readonly [archive: Buffer, layers: readonly (readonly string[])[]]>> = {
    'docker save until 24: links for equal layers': [
      saved(
        'c.json',
        ['a/layer.tar', 'b/layer.tar'],
        [file('c.json', config([one, one])), file('a/layer.tar', one), symlink('b/layer.tar', '../a/layer.tar')],
      ),
      [
        [ONE, ''],
        [ONE, ''],
      ],
    ],
    'podman, buildah, skopeo: a tar by its digest, and links to it': [
      saved(
        'c.json',
        ['aa.tar', 'bb.tar'],
        [
          file('aa.tar', one),
          symlink('1111/layer.tar', '../aa.tar'),
          file('bb.tar', two),
          symlink('2222/layer.tar', '../bb.tar'),
          file('c.json', config([one, two])),
          file('repositories', json({})),
        ],
      ),
      [
        [ONE, ''],
        [TWO, ''],
      ],
    ],
    'kaniko, ko, crane, jib: layers in gzip, one of them twice, a config named by digest': [
      saved(
        'sha256:c',
        ['a.tar.gz', 'b.tar.gz', 'a.tar.gz'],
        [file('sha256:c', config([one, two, one])), file('a.tar.gz', gzipSync(one)), file('b.tar.gz', gzipSync(two))],
      ),
      [
        [ONE, '+gzip'],
        [TWO, '+gzip'],
        [ONE, '+gzip'],
      ],
    ],
    'layers in zstd': [
      saved('c.json', ['l.tar.zst'], [file('c.json', config([one])), file('l.tar.zst', zstdCompressSync(one))]),
      [[ONE, '+zstd']],
    ],
    'nix: names that begin with ./': [
      tar(
        file('./c.json', config([one])),
        file('./l/layer.tar', one),
        file('./manifest.json', json([{ Config: './c.json', RepoTags: ['app:1'], Layers: ['./l/layer.tar'] }])),
      ),
      [[ONE, '']],
    ],
    'bazel: hard links, and names that are too long for a header': [
      saved(
        'c.json',
        [`${'l'.repeat(120)}.tar`],
        [
          file('c.json', config([one])),
          file('blob', one),
          gnuLong('L', `${'l'.repeat(120)}.tar`),
          hardlink('short', 'blob'),
        ],
      ),
      [[ONE, '']],
    ],
    'a link with a target that is too long for a header': [
      saved(
        'c.json',
        ['l.tar'],
        [
          file('c.json', config([one])),
          gnuLong('L', `${'t'.repeat(150)}`),
          file('short', one),
          gnuLong('K', 't'.repeat(150)),
          symlink('l.tar', 'short'),
        ],
      ),
      [[ONE, '']],
    ],
    'no tags, as null': [
      saved('c.json', ['l.tar'], [file('c.json', config([one])), file('l.tar', one)], null),
      [[ONE, '']],
    ],
    'a plain tar whose first name looks like gzip': [
      tar(file(Buffer.from([0x1f, 0x8b, 0x08]), 'x'), plain.subarray(0, plain.length)),
      [[ONE, '']],
    ],
    'the tar of the folder of an OCI layout': [
      (() => {
        const layout = new Layout();
        return layout.list(layout.image(one), { [REF_NAME]: 'v1' }).tar('my-layout/');
      })(),
      [[ONE, '+gzip']],
    ],
    'compressed with gzip': [gzipSync(plain), [[ONE, '']]],
    'compressed with gzip in several members': [
      Buffer.concat([gzipSync(plain.subarray(0, 700)), gzipSync(plain.subarray(700))]),
      [[ONE, '']],
    ],
    'compressed with zstd': [zstdCompressSync(plain), [[ONE, '']]],
    'compressed with zstd in several frames': [
      Buffer.concat([zstdCompressSync(plain.subarray(0, 700)), zstdCompressSync(plain.subarray(700))]),
      [[ONE, '']],
    ],
  };
  for (const [title, [archive, layers]] of Object.entries(archives)) {
    test(title, async () => assert.deepEqual(await layersOf(await pushBytes(archive)), layers));
  }

  test('an image without layers', async () => {
    const archive = saved('c.json', null, [file('c.json', config([]))]);
    const { uploaded } = await pushBytes(archive);
    assert.equal(uploaded.count, 2);
  });

  test('a layer with the digest of its diff_id is a tar, even if it begins like gzip', async () => {
    const layer = tar(file(Buffer.from([0x1f, 0x8b, 0x08, 0x41]), 'x'));
    const archive = saved('c.json', ['l.tar'], [file('c.json', config([layer])), file('l.tar', layer)]);
    assert.deepEqual(await layersOf(await pushBytes(archive)), [[digestOf(layer) as string, '']]);
  });

  test('docker 25: a layout beside manifest.json, found by full name, short name and tag', async () => {
    using folder = scratch();
    const layout = new Layout();
    const name = 'io.containerd.image.name';
    layout.list(layout.image(one), { [name]: 'docker.io/library/app:1', [REF_NAME]: '1' });
    layout.list(layout.image(two), { [name]: 'docker.io/library/other:1', [REF_NAME]: '1' });
    layout.write(folder.path);
    for (const image of ['docker.io/library/other:1', 'other:1']) {
      assert.deepEqual(await layersOf(await push(folder.path, { image })), [[TWO, '+gzip']]);
    }
    const error = await fails('IMAGE_NOT_FOUND', push(folder.path, { image: '1' }));
    assert.match(error.message, /2 images called "1".*docker\.io\/library\/app:1.*docker\.io\/library\/other:1/);
  });

  for (const [name, tag] of [
    ['registry.example.com/team/app:v3', 'v3'],
    ['registry.example.com/team/app', 'latest'],
    ['localhost:5000/app', 'latest'],
    [`registry.example.com/app@${ONE}`, 'latest'],
  ] as const) {
    test(`a layout whose name is ${name.replace(ONE, 'sha256:…')} gets the tag ${tag}`, async () => {
      using folder = scratch();
      const layout = new Layout();
      layout.list(layout.image(one), { [REF_NAME]: name }).write(folder.path);
      assert.equal((await push(folder.path)).tag, tag);
      assert.equal((await push(folder.path, { image: name })).tag, tag);
    });
  }

  test('images without names are listed by digest, and found by digest', async () => {
    using folder = scratch();
    const layout = new Layout();
    const images = [layout.image(one), layout.image(two, 'arm64')];
    for (const image of images) layout.list(image);
    layout.write(folder.path);
    const error = await fails('IMAGE_NOT_FOUND', push(folder.path));
    for (const { digest } of images) assert.ok(error.message.includes(digest), error.message);
    const pushed = await push(folder.path, { image: images[0]?.digest, tag: 'x' });
    assert.equal(pushed.digest, images[0]?.digest);
    const manifest = await fails('IMAGE_NOT_FOUND', push(folder.path, { image: digestOf(Buffer.from('other')) }));
    assert.ok(manifest.message.includes(images[0]?.digest ?? ''), manifest.message);
  });

  test('manifests of several platforms with one name are pushed as an index, or one of them by platform', async () => {
    using folder = scratch();
    const layout = new Layout();
    const arm = layout.image(two, 'arm64');
    layout
      .list(layout.image(one), { [REF_NAME]: 'v1' })
      .list(arm, { [REF_NAME]: 'v1' })
      .write(folder.path);
    const both = await push(folder.path);
    assert.deepEqual(await layersOf(both), [[ONE, '+gzip']]);
    assert.deepEqual(await layersOf(both, 'arm64'), [[TWO, '+gzip']]);
    const single = await push(folder.path, { platforms: [{ os: 'linux', architecture: 'arm64' }] });
    assert.equal(single.digest, arm.digest);
  });

  describe('of an index with missing platforms', () => {
    const gone = {
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      digest: digestOf(Buffer.from('gone')),
      size: 4,
      platform: { os: 'linux', architecture: 's390x' },
    };
    const odd = { mediaType: null, digest: 'blake3:12', size: -1, platform: {} };
    const sparse = (folder: string, ...more: readonly object[]) => {
      const layout = new Layout();
      const here = layout.image(one);
      const attestation = layout.blob(
        json({ config: null, layers: [] }),
        'application/vnd.oci.image.manifest.v1+json',
        {
          platform: { os: 'unknown', architecture: 'unknown' },
          annotations: { 'vnd.docker.reference.digest': here.digest },
        },
      );
      const arm = layout.image(two, 'arm64');
      // its manifest is there, its layer is not
      layout.files.delete(`blobs/sha256/${hexOf(digestOf(gzipSync(two)))}`);
      const index = layout.index([here, gone, arm, attestation, ...more]);
      layout.list(index, { [REF_NAME]: '1' }).write(folder);
      return { index, here, attestation, arm };
    };

    test('--platform copies the unchanged index and the blobs of the platform only', async () => {
      using folder = scratch();
      const { index, here, attestation, arm } = sparse(folder.path);
      const pushed = await push(folder.path, { platforms: [{ os: 'linux', architecture: 'amd64' }] });
      assert.equal(pushed.digest, index.digest);
      assert.equal(pushed.uploaded.count, 5); // index, manifest, config, layer, attestation
      assert.deepEqual(await layersOf(pushed), [[ONE, '+gzip']]);
      const at = async ({ digest }: { digest: string }) =>
        (await fetch(`${bucket.server.endpoint}/${BUCKET}/archives/${count}/blobs/sha256/${digest.slice(7)}`)).status;
      assert.deepEqual(await Promise.all([index, here, attestation, gone, arm].map(at)), [200, 200, 200, 404, 404]);
      assert.equal(pushed.leftOut.length, 2);
      assert.match(pushed.leftOut.join(), /linux\/s390x.*linux\/arm64/);
      const withOdd = sparse(folder.path, odd);
      const again = await push(folder.path, { platforms: [{ os: 'linux', architecture: 'amd64' }] });
      assert.equal(again.digest, withOdd.index.digest, 'entries that nobody can read are copied as they are');
    });

    test('without --platform nothing is sent, and the message lists the missing and the complete platforms', async () => {
      using folder = scratch();
      sparse(folder.path);
      const error = await fails('BLOB_NOT_FOUND', push(folder.path));
      assert.match(error.message, /linux\/s390x.*linux\/arm64.*--platform linux\/amd64/);
      const listed = await fetch(`${bucket.server.endpoint}/${BUCKET}?list-type=2&prefix=archives/${count}/`);
      assert.doesNotMatch(await listed.text(), /<Key>/);
    });

    test('the message names a platform that is incomplete or not listed', async () => {
      using folder = scratch();
      sparse(folder.path);
      const incomplete = push(folder.path, { platforms: [{ os: 'linux', architecture: 'arm64' }] });
      assert.match((await fails('BLOB_NOT_FOUND', incomplete)).message, /linux\/arm64.*--platform linux\/amd64/);
      const unknown = push(folder.path, { platforms: [{ os: 'linux', architecture: 'riscv64' }] });
      assert.match((await fails('PLATFORM_NOT_FOUND', unknown)).message, /it has linux\/amd64, linux\/s390x/);
    });
  });

  describe('that are compressed', () => {
    test('with xz are decompressed by the program xz', {
      skip: skipWithout('xz'),
    }, async () => {
      const archive = execFileSync('xz', ['--stdout'], { input: plain });
      assert.deepEqual(await layersOf(await pushBytes(archive)), [[ONE, '']]);
      const cut = await fails('MANIFEST_INVALID', pushBytes(archive.subarray(0, archive.length - 30)));
      assert.match(cut.message, /is damaged: xz says/);
    });

    test('with xz may end later than their output', async () => {
      using folder = scratch();
      writeFileSync(join(folder.path, 'plain'), plain);
      const script = `#!/bin/sh\n/bin/cat ${folder.path}/plain\nexec >&-\n/bin/sleep 0.2\n`;
      writeFileSync(join(folder.path, 'xz'), script, { mode: 0o755 });
      const path = process.env.PATH;
      process.env.PATH = folder.path;
      try {
        const start = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 0, 4]);
        assert.deepEqual(await layersOf(await pushBytes(start)), [[ONE, '']]);
      } finally {
        process.env.PATH = path;
      }
    });

    test('with xz fail with advice if the program is not installed', async () => {
      using folder = scratch();
      const path = process.env.PATH;
      process.env.PATH = folder.path;
      try {
        const start = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 0, 4]);
        const error = await fails('UNSUPPORTED_MEDIA_TYPE', pushBytes(start));
        assert.match(error.message, /the program xz is not installed; install the package xz-utils/);
      } finally {
        process.env.PATH = path;
      }
    });

    test('in another way fail with its name', async () => {
      const error = await fails('UNSUPPORTED_MEDIA_TYPE', pushBytes(Buffer.from('BZh91AY&SY')));
      assert.match(error.message, /compressed with bzip2/);
    });

    test('and damaged fail with MANIFEST_INVALID', async () => {
      for (const packed of [gzipSync(plain), zstdCompressSync(plain)]) {
        const error = await fails('MANIFEST_INVALID', pushBytes(packed.subarray(0, packed.length - 12)));
        assert.match(error.message, /archive is damaged: the (gzip|zstd) data is corrupt: it ends too early/);
      }
      assert.match((await fails('MANIFEST_INVALID', pushBytes(Buffer.alloc(0)))).message, /it is empty/);
    });

    test('leave no temporary file behind, even on a full disk', {
      skip: unavailable(() => tmpfs('size=1m')),
    }, async () => {
      using disk = tmpfs('size=1m');
      const before = process.env.TMPDIR;
      process.env.TMPDIR = disk.path;
      using folder = scratchIn('/tmp');
      try {
        writeFileSync(join(folder.path, 'good'), gzipSync(plain));
        await push(join(folder.path, 'good'));
        assert.deepEqual(readdirSync(disk.path), []);
        writeFileSync(join(folder.path, 'large'), gzipSync(tar(file('x', Buffer.alloc(4 << 20)))));
        const error = await fails('STORE_FULL', push(join(folder.path, 'large')));
        assert.match(error.message, /no space left in .*TMPDIR/);
        assert.deepEqual(readdirSync(disk.path), []);
      } finally {
        if (before === undefined) delete process.env.TMPDIR;
        else process.env.TMPDIR = before;
      }
    });
  });

  test('a malformed PAX header is MANIFEST_INVALID, as in a layer', async () => {
    const archive = tar(member({ name: 'pax', type: 'x', content: '12 path' }), file('manifest.json', '[]'));
    const error = await fails('MANIFEST_INVALID', pushBytes(archive));
    assert.match(error.message, /a PAX header has a record/);
  });

  test('an archive of Docker before 1.10 is recognized', async () => {
    const archive = tar(file('abc/json', '{}'), file('abc/layer.tar', one), file('repositories', '{}'));
    assert.match((await fails('MANIFEST_INVALID', pushBytes(archive))).message, /before Docker 1\.10/);
  });

  test('paths in an archive folder do not lead out of it', async () => {
    using folder = scratch();
    writeFileSync(join(folder.path, 'secret'), one);
    mkdirSync(join(folder.path, 'saved'));
    writeFileSync(join(folder.path, 'saved/c.json'), config([one]));
    const list = [{ Config: 'c.json', RepoTags: null, Layers: ['../secret'] }];
    writeFileSync(join(folder.path, 'saved/manifest.json'), json(list));
    await fails('BLOB_NOT_FOUND', push(join(folder.path, 'saved')));
  });

  test('a layout whose blobs are links, as from bazel', async () => {
    using folder = scratch();
    const layout = new Layout();
    layout.list(layout.image(one), { [REF_NAME]: 'v1' }).write(join(folder.path, 'real'));
    mkdirSync(join(folder.path, 'linked/blobs'), { recursive: true });
    for (const name of ['index.json', 'oci-layout', 'blobs/sha256']) {
      symlinkSync(join(folder.path, 'real', name), join(folder.path, 'linked', name));
    }
    assert.ok(existsSync(join(folder.path, 'linked/index.json')));
    assert.deepEqual(await layersOf(await push(join(folder.path, 'linked'))), [[ONE, '+gzip']]);
  });
});

function scratchIn(parent: string): ReturnType<typeof scratch> {
  const before = process.env.TMPDIR;
  process.env.TMPDIR = parent;
  try {
    return scratch();
  } finally {
    if (before === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = before;
  }
}
