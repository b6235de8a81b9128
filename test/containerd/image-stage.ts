import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ContainerdClient } from '../../src/grpc/client.ts';
import { isGrpcError } from '../../src/grpc/errors.ts';
import type { Labels } from '../../src/grpc/services.ts';
import { chainIds } from '../../src/oci/digest.ts';
import { formatPlatform, hostPlatform } from '../../src/oci/platform.ts';
import { ContainerdImages } from '../../src/snapshots/containerd/images.ts';
import type { NewImage } from '../../src/snapshots/images.ts';
import { isSnapshotError, SnapshotError } from '../../src/snapshots/snapshotter.ts';
import { directoryOf } from '../conformance/containerd.ts';
import { runChild } from '../support/child.ts';
import { imageOf, layerOf, type TestImage } from '../support/layout.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';
import type { Daemon } from './daemon.ts';

export const SNAPSHOTTER = 'overlayfs';
export const HOST = hostPlatform();
/** As records name it. */
export const HOST_NAME = formatPlatform(HOST);
export const RECORD = { source: 's3://bucket/prefix', job: '7' };
/** Begins the keys of the snapshots that the stage itself makes. */
const EXTRACTION = 'unpackd-test-';

/** The records of images in the namespace of CRI, without a store, and what tests do with them. It does not end the daemon. */
export class ImageStage {
  readonly daemon: Daemon;
  readonly client: ContainerdClient;
  readonly images: ContainerdImages;
  #leases = 0;

  constructor(daemon: Daemon) {
    this.daemon = daemon;
    this.client = daemon.client('k8s.io');
    this.images = this.imagesWith(this.client);
  }

  /** The records with another client of the same containerd. */
  imagesWith(client: ContainerdClient): ContainerdImages {
    const views = {
      extraction: EXTRACTION,
      viewMounts: async (key: string) => {
        if (!(await this.hasSnapshot(key))) throw new SnapshotError('NotFound', key);
        return [];
      },
    };
    return new ContainerdImages(client, SNAPSHOTTER, views, (calls) => this.underLease(calls));
  }

  async underLease<T>(calls: (lease: string) => Promise<T>): Promise<T> {
    const id = `lease-${this.#leases++}`;
    await this.client.leases.Create({ id });
    try {
      return await calls(id);
    } finally {
      await this.client.leases.Delete({ id }).catch((error: unknown) => {
        if (!isGrpcError(error, 'NOT_FOUND')) throw error;
      });
    }
  }

  /** Makes the snapshots of the image's layers, and keeps them until `record` has ended. */
  async withLayers<T>(image: TestImage, record: () => Promise<T>): Promise<T> {
    const { leases, snapshots } = this.client;
    return this.underLease(async (lease) => {
      let parent = '';
      for (const [index, chainId] of chainIds(image.layers.map(({ diff }) => diff.digest)).entries()) {
        const resource = { id: chainId, type: `snapshots/${SNAPSHOTTER}` };
        await leases.AddResource({ id: lease, resource });
        if (!(await this.hasSnapshot(chainId))) {
          const key = `${EXTRACTION}${this.#leases++}`;
          const { mounts } = await snapshots.Prepare({ snapshotter: SNAPSHOTTER, key, parent }, { lease });
          await writeLayer(directoryOf(mounts), image.layers[index]?.bytes);
          await snapshots.Commit({ snapshotter: SNAPSHOTTER, key, name: chainId }, { lease });
        }
        parent = chainId;
      }
      return record();
    });
  }

  record(
    reference: string,
    image: TestImage,
    more: Partial<NewImage> = {},
    documents: ReadonlyMap<string, Buffer> = new Map(),
  ): Promise<void> {
    return this.withLayers(image, () =>
      this.images.recordImage(newImage(reference, image, more), new Map([...documentsOf(image), ...documents])),
    );
  }

  /** The labels of an image; `undefined` if it is not there. */
  async labels(name: string): Promise<Labels | undefined> {
    return (await this.client.images.List({ filters: [`name==${JSON.stringify(name)}`] })).images[0]?.labels;
  }

  /** Sets labels of an image, as another program. An empty value removes one. */
  async setLabels(name: string, labels: Labels): Promise<void> {
    const { image } = await this.client.images.Get({ name });
    const paths = Object.keys(labels).map((key) => `labels.${key}`);
    await this.client.images.Update({ image: { name, target: image?.target ?? null, labels }, updateMask: { paths } });
  }

  /** The digest to which a name leads. */
  async target(name: string): Promise<string | undefined> {
    try {
      return (await this.client.images.Get({ name })).image?.target?.digest;
    } catch (error) {
      if (isGrpcError(error, 'NOT_FOUND')) return undefined;
      throw error;
    }
  }

  async hasSnapshot(key: string): Promise<boolean> {
    try {
      return (await this.client.snapshots.Stat({ snapshotter: SNAPSHOTTER, key })).info !== null;
    } catch (error) {
      if (isGrpcError(error, 'NOT_FOUND')) return false;
      throw error;
    }
  }

  async listed(): Promise<string[]> {
    return (await this.images.images()).map(({ reference, platform }) => `${reference} ${platform}`);
  }

  /** Removes all recorded images. No other image may be left then. */
  async removeAll(): Promise<void> {
    for (const { reference } of await this.images.images()) {
      await this.images.pinImage(reference, undefined, false).catch(() => {});
      await this.images.removeImage(reference).catch((error: unknown) => {
        if (!isSnapshotError(error, 'NotFound')) throw error;
      });
    }
    assert.deepEqual(
      (await this.client.images.List({})).images.map(({ name }) => name),
      [],
    );
  }
}

/** An image whose layers no other image has. */
export const smallImage = (word: string, platform = HOST): TestImage =>
  imageOf([layerOf(tar(file('word', word))), layerOf(tar(file('upper', word)))], platform);

async function writeLayer(directory: string, bytes: Buffer | undefined): Promise<void> {
  using folder = scratch();
  const path = join(folder.path, 'layer.tar.gz');
  writeFileSync(path, bytes ?? Buffer.alloc(0));
  const { status, stderr } = runChild('tar', ['-xzf', path, '-C', directory]);
  assert.equal(status, 0, stderr);
}

/** Its manifest and its config. */
export function documentsOf(image: TestImage): Map<string, Buffer> {
  const layers = new Set<string>(image.layers.map(({ blob }) => blob.digest));
  return new Map([...image.blobs].filter(([digest]) => !layers.has(digest)));
}

export function newImage(
  reference: string,
  image: TestImage,
  more: Partial<NewImage> = {},
  hasLayers = true,
): NewImage {
  const { manifestDigest, configDigest } = image;
  const chain = hasLayers ? { chainId: image.chainId } : {};
  return { ...RECORD, reference, platform: HOST_NAME, manifestDigest, configDigest, ...chain, ...more };
}
