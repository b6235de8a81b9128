import { randomBytes } from 'node:crypto';
import { UnpackError } from '../errors.ts';
import type { ContainerdClient } from '../grpc/client.ts';
import { isGrpcError } from '../grpc/errors.ts';
import { formatImageName, parseImageName } from '../oci/image-name.ts';
import { storeError } from '../snapshots/containerd/errors.ts';
import { ContainerdImages } from '../snapshots/containerd/images.ts';
import { expiring } from '../snapshots/containerd/leases.ts';
import type { ImageRecord } from '../snapshots/images.ts';
import { LABEL_SNAPSHOT_REF } from '../snapshots/snapshotter.ts';
import type { OwnStore } from '../snapshots/store.ts';

/** `unpackd images register`: makes images of our own store known to a containerd that uses the store, without a pull. */

/** A containerd whose configuration has our store as a proxy snapshotter. */
export interface UsingContainerd {
  readonly client: ContainerdClient;
  /** Path of its socket, for messages. */
  readonly socket: string;
  /** The name of the proxy snapshotter in its configuration. */
  readonly snapshotter: string;
}

export interface Registered {
  /** The names of the image in containerd, the first one as it was asked for. */
  readonly names: readonly string[];
  /** How many layers containerd has claimed. */
  readonly layers: number;
}

/** Milliseconds until containerd ends the lease, if this process dies meanwhile. */
const EXPIRY = 3_600_000;

/**
 * Lets containerd find each layer in the store, the lowest first, which claims it. Then records the image as a pull does. All of
 * it is under a lease, so containerd collects what a failure leaves, and ends the claims.
 * @param name of the image in containerd, as people write it
 * @throws UnpackError INVALID_JOB for a wrong name, IMAGE_NOT_FOUND if the store lacks a part of the image, STORE_FAILED if
 *   containerd does not answer, or does not use this store
 */
export async function registerImage(
  store: OwnStore,
  image: ImageRecord,
  name: string,
  { client, socket, snapshotter }: UsingContainerd,
): Promise<Registered> {
  const reference = formatImageName(parseImageName(name));
  const documents = await documentsOf(store, image);
  const id = `unpackd-register-${randomBytes(8).toString('hex')}`;
  const chain = await chainOf(store, image);
  // so that nobody removes a layer before it is claimed
  await using _kept = await store.lease(chain, { job: `register ${reference}` });
  try {
    await client.leases.Create({ id, labels: expiring(EXPIRY) });
    try {
      await claimLayers(chain, id, { client, socket, snapshotter }, store.root);
      // containerd does not ask the store for what its own records have, also if the store was made again since
      const top = chain.at(-1);
      if (top !== undefined) await store.adopt(top, chain.at(-2) ?? '');
      const images = new ContainerdImages(client, snapshotter, store, (calls) => calls(id));
      const { pinned: _pinned, used: _used, unpacked: _unpacked, ...record } = image;
      const named = { ...record, reference };
      await images.recordImage(named, documents);
      return { names: images.namesOf(named), layers: chain.length };
    } finally {
      // what is registered is kept by the image from here on; a collection follows
      await client.leases.Delete({ id, sync: false });
    }
  } catch (error) {
    throw storeError(error, socket);
  }
}

/** The layers of an image, the lowest first. @throws UnpackError IMAGE_NOT_FOUND if the store cannot use them */
async function chainOf(store: OwnStore, { reference, chainId }: ImageRecord): Promise<string[]> {
  if (chainId === undefined) return [];
  if (!(await store.has(chainId))) {
    throw new UnpackError(
      'IMAGE_NOT_FOUND',
      `${store.root} can't use the layers of image ${reference}: let a job unpack it again`,
    );
  }
  const chain: string[] = [];
  for (let name = chainId; name !== ''; name = (await store.stat(name)).parent) chain.unshift(name);
  return chain;
}

/** @throws UnpackError IMAGE_NOT_FOUND if a document is not recorded, as for a job with explicit layers */
async function documentsOf(store: OwnStore, image: ImageRecord): Promise<Map<string, Uint8Array>> {
  const { reference, manifestDigest, configDigest, indexDigest } = image;
  const documents = new Map<string, Uint8Array>();
  for (const digest of [configDigest, manifestDigest, indexDigest]) {
    const bytes = digest === undefined ? undefined : await store.document(digest);
    if (digest !== undefined && bytes !== undefined) documents.set(digest, bytes);
  }
  if (!documents.has(manifestDigest ?? '') || !documents.has(configDigest ?? '')) {
    throw new UnpackError(
      'IMAGE_NOT_FOUND',
      `${store.root} has no manifest and config of ${reference}, which containerd needs: let a job unpack it by its tag or digest, not by its layers`,
    );
  }
  return documents;
}

/** Asks containerd to prepare each layer, as a pull does before it fetches one. @throws GrpcError; UnpackError STORE_FAILED */
async function claimLayers(
  chain: readonly string[],
  lease: string,
  { client, socket, snapshotter }: UsingContainerd,
  root: string,
): Promise<void> {
  let parent = '';
  for (const name of chain) {
    const key = `${lease} ${name}`;
    try {
      await client.snapshots.Prepare({ snapshotter, key, parent, labels: { [LABEL_SNAPSHOT_REF]: name } }, { lease });
    } catch (error) {
      if (isGrpcError(error, 'INVALID_ARGUMENT') && error.details.includes('not loaded')) {
        throw new UnpackError(
          'STORE_FAILED',
          `containerd at ${socket} has no snapshotter ${snapshotter}: add [proxy_plugins.${snapshotter}] to its config.toml and restart it, or name another with --proxy`,
          { cause: error },
        );
      }
      if (!isGrpcError(error, 'ALREADY_EXISTS')) throw error;
      await requireFound(name, { client, socket, snapshotter }, root);
      parent = name;
      continue;
    }
    await client.snapshots.Remove({ snapshotter, key });
    throw new UnpackError(
      'STORE_FAILED',
      `the snapshotter ${snapshotter} of containerd at ${socket} does not have layer ${name}: serve ${root} with unpackd snapshotter, or name its snapshotter with --proxy`,
    );
  }
}

/**
 * containerd answers for a layer that its own records have, without a call of the store. The store can have lost it, for example
 * because somebody has deleted the store and made it again.
 * @throws UnpackError STORE_FAILED if so; GrpcError
 */
async function requireFound(
  name: string,
  { client, socket, snapshotter }: UsingContainerd,
  root: string,
): Promise<void> {
  try {
    await client.snapshots.Stat({ snapshotter, key: name });
  } catch (error) {
    if (!isGrpcError(error, 'NOT_FOUND')) throw error;
    throw new UnpackError(
      'STORE_FAILED',
      `containerd at ${socket} has layer ${name} in its records, and ${root} has lost it: remove the images with this layer in containerd (ctr images rm --sync) and register again`,
      { cause: error },
    );
  }
}
