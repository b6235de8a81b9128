import { createHash } from 'node:crypto';
import * as z from 'zod';
import { byMagic } from '../archive/compression.ts';
import { UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { type BlobDigest, digestOf } from '../oci/digest.ts';
import { CONFIG_LIMIT, parseConfig } from '../oci/image-config.ts';
import { REF_NAME } from '../oci/image-index.ts';
import { parseJson } from '../oci/json-fields.ts';
import { OCI_CONFIG, OCI_MANIFEST } from '../oci/media-type.ts';
import type { Platform } from '../oci/platform.ts';
import { madeBlob, type StoredBlob, whole } from './stored-blob.ts';

const READ = 4 * 1024 * 1024;

/** `manifest.json` of `docker save` (moby, image/spec/v1.2.md, "Combined Image JSON + Filesystem Changeset Format"). */
const listSchema = z.array(
  z.object({
    Config: z.string(),
    RepoTags: z.array(z.string()).nullish(),
    Layers: z.array(z.string()).nullish(),
  }),
);

/**
 * The images of a `docker save` archive, which has no manifest with digests: one is made for each, OCI, over the config
 * and the layers as they lie in the archive. Each layer is read once for its digest.
 * @throws UnpackError MANIFEST_INVALID, BLOB_NOT_FOUND when the archive lacks a file that it names,
 *   BLOB_DIGEST_MISMATCH when an uncompressed layer is not what the config says
 */
export async function dockerSaveImages(
  list: Buffer,
  entry: (name: string) => Promise<StoredBlob | undefined>,
  path: string,
): Promise<{ images: Descriptor[]; blobs: ReadonlyMap<BlobDigest, StoredBlob> }> {
  const parsed = listSchema.safeParse(parseJson(list, `${path}: manifest.json`));
  if (!parsed.success) {
    throw new UnpackError('MANIFEST_INVALID', `${path}: manifest.json is not what docker save writes`, {
      cause: parsed.error,
    });
  }
  const blobs = new Map<BlobDigest, StoredBlob>();
  const described = new Map<string, StoredLayer>(); // images of one archive share layers
  const need = async (name: string): Promise<StoredBlob> => {
    const blob = await entry(name);
    if (blob !== undefined) return blob;
    throw new UnpackError('BLOB_NOT_FOUND', `${path} lacks ${name}, which its manifest.json names`);
  };
  const layerOf = async (name: string): Promise<StoredLayer> => {
    const known = described.get(name);
    if (known !== undefined) return known;
    const blob = await need(name);
    const layer = await storedLayer(blob);
    described.set(name, layer);
    blobs.set(layer.digest, blob);
    return layer;
  };

  const images: Descriptor[] = [];
  for (const { Config, RepoTags, Layers } of parsed.data) {
    const blob = await need(Config);
    const what = `${path}: ${Config}`;
    const bytes = await whole(blob, what, CONFIG_LIMIT);
    const config = { mediaType: OCI_CONFIG, digest: digestOf(bytes), size: bytes.length };
    blobs.set(config.digest, blob);
    const stored: StoredLayer[] = [];
    for (const name of Layers ?? []) stored.push(await layerOf(name));
    const { diffIds, platform } = parseConfig(bytes, what);
    const layers = describeLayers(stored, diffIds, path);
    const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers }));
    const descriptor = { mediaType: OCI_MANIFEST, digest: digestOf(manifest), size: manifest.length };
    blobs.set(descriptor.digest, madeBlob(manifest));
    images.push(...named(descriptor, platform, RepoTags ?? []));
  }
  return { images, blobs };
}

function named(descriptor: Descriptor, platform: Platform | undefined, tags: readonly string[]): Descriptor[] {
  const whole = platform === undefined ? descriptor : { ...descriptor, platform };
  if (tags.length === 0) return [whole];
  return tags.map((tag) => ({ ...whole, annotations: { [REF_NAME]: tag } }));
}

/** A layer as it lies in the archive. */
interface StoredLayer {
  readonly digest: BlobDigest;
  readonly size: number;
  /** Its first bytes. */
  readonly head: Buffer;
}

async function storedLayer(blob: StoredBlob): Promise<StoredLayer> {
  const hash = createHash('sha256');
  let head = Buffer.alloc(0);
  for (let offset = 0; offset < blob.size; offset += READ) {
    const bytes = await blob.read(offset, Math.min(READ, blob.size - offset));
    if (offset === 0) head = Buffer.from(bytes.subarray(0, 4));
    hash.update(bytes);
  }
  // `as`: just computed
  return { digest: `sha256:${hash.digest('hex')}` as BlobDigest, size: blob.size, head };
}

/**
 * Layers lie there as tars, or compressed: go-containerregistry's tools write gzip, others zstd. What has the digest that
 * the config gives the tar is the tar, whatever its first bytes are.
 */
function describeLayers(layers: readonly StoredLayer[], diffIds: readonly string[], path: string): Descriptor[] {
  if (layers.length !== diffIds.length) {
    throw new UnpackError(
      'MANIFEST_INVALID',
      `${path} has ${layers.length} layers and its config ${diffIds.length} diff_ids; there must be one for each`,
    );
  }
  return layers.map(({ digest, size, head }, layerIndex) => {
    const expected = diffIds[layerIndex];
    const compression = digest === expected ? 'none' : byMagic(head);
    if (compression === 'none' && digest !== expected) {
      throw new UnpackError('BLOB_DIGEST_MISMATCH', `layer ${layerIndex + 1} in ${path} is not the one of its config`, {
        details: { layerIndex, layerCount: layers.length, actual: digest, ...(expected ? { expected } : {}) },
      });
    }
    const suffix = compression === 'none' ? '' : `+${compression}`;
    return { mediaType: `application/vnd.oci.image.layer.v1.tar${suffix}`, digest, size };
  });
}
