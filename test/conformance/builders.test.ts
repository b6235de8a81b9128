import { execFileSync, type StdioOptions } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { resolveImages } from '../../src/image/resolve.ts';
import { hexOf } from '../../src/oci/digest.ts';
import { openSource } from '../../src/source/open-sources.ts';
import { unmountSnapshot } from '../../src/system/mount.ts';
import { mountsBelow } from '../containerd/daemon.ts';
import { skipWithout } from '../support/present.ts';
import { agree, started } from './agreement.ts';
import { ageChanges, STEPS } from './builder-steps.ts';
import type { StoredLayer } from './containerd.ts';

const running = await started();
const began = Date.now();

/** Builds an image from changes to a tree. @returns OCI layouts in `folder`, by the name of their blob format */
type Build = (folder: string) => Record<string, string>;

const BUILDERS: Readonly<Record<string, { readonly program: string; readonly build: Build }>> = {
  umoci: { program: 'umoci', build: withUmoci },
  'buildah on overlayfs': {
    program: 'buildah',
    build: (folder) => withBuildah(folder, 'overlay', ['gzip', 'zstd', 'zstd:chunked']),
  },
  'buildah on full copies': { program: 'buildah', build: (folder) => withBuildah(folder, 'vfs', ['gzip']) },
};

for (const [name, { program, build }] of Object.entries(BUILDERS)) {
  const skip = running.skip || skipWithout(program, 'setfattr', 'setfacl', 'mknod', 'mkfifo');
  describe(`layers of ${name}`, { skip }, () => {
    let folder = '';
    let layouts: Record<string, string> = {};
    before(async () => {
      folder = await mkdtemp(join(tmpdir(), 'unpackd-builder-'));
      layouts = build(folder);
    });
    after(async () => {
      for (const mountPoint of mountsBelow(folder)) await unmountSnapshot(mountPoint);
      await rm(folder, { recursive: true, force: true });
    });

    it('leave the same folders', async (test) => {
      if (running.skip !== false) return;
      for (const [form, layout] of Object.entries(layouts)) {
        const layers = await layersIn(layout);
        await agree(running.suite, layers);
        test.diagnostic(`${form}: ${layers.length} layers`);
      }
    });
  });
}

/** `umoci repack` compares the tree with its state after unpacking; `umoci insert` writes whiteouts without a tree. */
function withUmoci(folder: string): Record<string, string> {
  const layout = join(folder, 'layout');
  const bundle = join(folder, 'bundle');
  const root = join(bundle, 'rootfs');
  const image = ['--image', `${layout}:app`];
  const umoci = (...words: string[]): void => {
    execFileSync('umoci', ['--log=error', ...words], { stdio: ['ignore', 'ignore', 'inherit'] });
  };
  umoci('init', '--layout', layout);
  umoci('new', ...image);
  umoci('unpack', ...image, bundle);
  for (const [index, step] of Object.values(STEPS).entries()) {
    step((path) => join(root, path));
    ageChanges(root, began, index);
    umoci('repack', '--refresh-bundle', ...image, bundle);
  }
  const added = join(folder, 'added');
  mkdirSync(added);
  writeFileSync(join(added, 'only'), 'all else is gone');
  ageChanges(added, began, 100);
  umoci('insert', '--opaque', ...image, added, '/srv/renamed');
  umoci('insert', '--whiteout', ...image, '/opt/old/fresh');
  umoci('insert', ...image, added, '/srv/new');
  return { 'gzip, with one that has no end': layout };
}

type Form = 'gzip' | 'zstd' | 'zstd:chunked';

/** Each step changes and commits a container of the image before. The storage driver finds the changes. */
function withBuildah(folder: string, driver: 'overlay' | 'vfs', forms: readonly Form[]): Record<string, string> {
  const policy = join(folder, 'policy.json');
  writeFileSync(policy, JSON.stringify({ default: [{ type: 'insecureAcceptAnything' }] }));
  const store = ['--root', join(folder, 'store'), '--runroot', join(folder, 'run'), '--storage-driver', driver];
  const stdio: StdioOptions = ['ignore', 'pipe', 'inherit'];
  const buildah = (command: string, ...words: string[]): string =>
    execFileSync('buildah', [...store, command, ...words], { encoding: 'utf8', stdio }).trim();
  const trusting = ['--signature-policy', policy];
  let image = 'scratch';
  for (const [index, step] of Object.values(STEPS).entries()) {
    const container = buildah('from', ...trusting, image);
    const root = buildah('mount', container);
    step((path) => join(root, path));
    ageChanges(root, began, index);
    image = `step-${index}`;
    buildah('commit', ...trusting, '--quiet', '--rm', container, image);
  }
  const layouts = forms.map((form, index) => {
    const layout = join(folder, `layout-${index}`);
    buildah('push', ...trusting, '--quiet', '--compression-format', form, image, `oci:${layout}:app`);
    return [form, layout] as const;
  });
  return Object.fromEntries(layouts);
}

/** The layers of the image `app`, bottom-most first. */
async function layersIn(layout: string): Promise<StoredLayer[]> {
  const source = openSource({ kind: 'oci-layout', path: layout });
  try {
    const [image] = await resolveImages(source, { target: { kind: 'tag', tag: 'app' } }, {});
    return (image?.layers ?? []).map((layer) => ({
      ...layer,
      bytes: readFileSync(join(layout, 'blobs/sha256', hexOf(layer.blob.digest))),
    }));
  } finally {
    source.close();
  }
}
