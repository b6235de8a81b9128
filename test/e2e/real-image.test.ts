import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { chainIds, diffId } from '../../src/oci/digest.ts';
import { pushImage } from '../../src/push/push.ts';
import type { Payload } from '../../src/queue/formats.ts';
import { openSnapshotter } from '../../src/snapshots/open.ts';
import { mountSnapshot, unmountSnapshot } from '../../src/system/mount.ts';
import { finished } from '../cli/run-cli.ts';
import { BUCKET } from '../support/bucket.ts';
import { startChild } from '../support/child.ts';
import { skipWithout } from '../support/present.ts';
import { startRegistry } from '../support/registry.ts';
import { type Node, readTree } from '../support/tree.ts';
import { type Stage, stage } from './stage.ts';

/**
 * A real image from outside the project: REAL_IMAGE names a folder with the OCI layouts `gzip` and `zstd`, each with the tag
 * `app`. Such a folder takes minutes to make, so these tests are skipped without it.
 */
const layouts = process.env.REAL_IMAGE;
const skip =
  layouts === undefined
    ? 'REAL_IMAGE names no folder with the OCI layouts gzip and zstd'
    : skipWithout('umoci', 'docker-registry');

const LIMIT = 120_000;

for (const variant of ['gzip', 'zstd'] as const) {
  describe(`a real image with ${variant} layers`, { skip }, () => {
    const layout = join(layouts ?? '', variant);
    let folder: string;
    let expected: Record<string, Node>;
    before(async () => {
      folder = await mkdtemp(join(tmpdir(), 'unpackd-umoci-'));
      // umoci 0.4 knows no zstd; the tree is the same in both variants
      const readable = join(layouts ?? '', 'gzip');
      execFileSync('umoci', ['--log=error', 'raw', 'unpack', '--image', `${readable}:app`, join(folder, 'tree')]);
      expected = readTree(join(folder, 'tree'));
    });
    after(() => rm(folder, { recursive: true, force: true }));

    const ways: Readonly<Record<string, (s: Stage) => Promise<Payload['source']>>> = {
      'pushed in the layout oci': async (s) => {
        await pushImage({
          path: layout,
          bucket: BUCKET,
          prefix: 'real',
          tag: 'app',
          connection: patient(s),
        });
        return { bucket: BUCKET, prefix: 'real', layout: 'oci' };
      },
      'pushed in the layout distribution': async (s) => {
        await pushImage({
          path: layout,
          bucket: BUCKET,
          prefix: 'real',
          layout: { kind: 'distribution', repository: 'team/app' },
          tag: 'app',
          connection: patient(s),
        });
        return { bucket: BUCKET, prefix: 'real', layout: 'distribution', repository: 'team/app' };
      },
      'written by a real registry': async (s) => {
        const registry = await startRegistry(s.bucket.server, BUCKET, 'real');
        const target = `docker://${registry.origin.slice('http://'.length)}/team/app:app`;
        const { AWS_CA_BUNDLE: _, ...env } = process.env;
        // asynchronous, because the S3 server runs in this process
        await using copy = startChild(
          'skopeo',
          ['copy', '-q', '--insecure-policy', '--dest-tls-verify=false', `oci:${layout}:app`, target],
          { env, stdio: ['ignore', 'pipe', 'pipe'] },
        );
        const { status, stderr } = await finished(copy);
        assert.equal(status, 0, stderr);
        await registry.close();
        return { bucket: BUCKET, prefix: 'real', layout: 'distribution', repository: 'team/app' };
      },
    };

    for (const [name, push] of Object.entries(ways)) {
      it(`${name} becomes the same tree as with umoci, under the chain ID of its config`, async () => {
        await using s = await stage();
        const source = await push(s);
        await s.worker({ UNPACK_S3_IDLE_TIMEOUT: '30s' });
        const payload: Payload = { version: 1, image: 'registry.example/team/app:app', source, tag: 'app' };
        const result = await s.queue.wait(await s.queue.add(payload), { timeout: LIMIT });
        const image = result.images[0];
        assert.ok(image);
        assert.equal(image.chainId, chainIdOf(layout));
        assert.deepEqual(await mountedTree(s.root, image.chainId), expected);

        const before = s.proxy.seen.length;
        const again = await s.queue.wait(await s.queue.add(payload), { timeout: LIMIT });
        const layers = new Set(image.layers.map((layer) => layer.blobDigest.slice('sha256:'.length)));
        const asked = s.proxy.seen.slice(before).map(({ key }) => key);
        assert.deepEqual(
          asked.filter((key) => [...layers].some((hex) => key.includes(hex))),
          [],
        );
        console.log(`${variant}, ${name}: ${result.durationMs} ms, again ${again.durationMs} ms`);
      });
    }
  });
}

/** Long, because a disk on which many files were just deleted may block the upload of hundreds of megabytes for seconds. */
const patient = (s: Stage) => s.bucket.connection({ connectTimeout: 30_000, idleTimeout: 30_000 });

/** The chain ID of an image, computed from its config alone. */
function chainIdOf(layout: string): string {
  const blob = (digest: string) => JSON.parse(readFileSync(join(layout, 'blobs/sha256', digest.slice(7)), 'utf8'));
  const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8'));
  const config = blob(blob(index.manifests[0].digest).config.digest);
  return chainIds(config.rootfs.diff_ids.map(diffId)).at(-1) ?? '';
}

async function mountedTree(root: string, name: string): Promise<Record<string, Node>> {
  const snapshotter = await openSnapshotter({ root, type: 'overlay', durable: false });
  const target = await mkdtemp(join(tmpdir(), 'unpackd-mount-'));
  try {
    await mountSnapshot(await snapshotter.view('look', name), target);
    try {
      return readTree(target);
    } finally {
      await unmountSnapshot(target);
    }
  } finally {
    await snapshotter.remove('look').catch(() => {});
    await snapshotter.close();
    await rm(target, { recursive: true });
  }
}
