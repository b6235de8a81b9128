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
import { type FindFile, type LocalBlob, memoryBlob, readWhole } from './local-blob.ts';

/** Number of bytes per read. */
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
 * Reads the images of a `docker save` archive, for ImageArchive. Such an archive has no manifests with digests, so an OCI manifest
 * is made for each image, with the config and the layers as they are stored. Each layer is read once for its digest.
 * @param list `manifest.json`
 * @throws UnpackError MANIFEST_INVALID; BLOB_NOT_FOUND if a file of the list is missing; BLOB_DIGEST_MISMATCH if an uncompressed
 *   layer does not have its DiffID
 */
export async function dockerSaveImages(
  list: Buffer,
  entry: FindFile,
  path: string,
): Promise<{ images: Descriptor[]; blobs: ReadonlyMap<BlobDigest, LocalBlob> }> {
  const parsed = listSchema.safeParse(parseJson(list, `${path}: manifest.json`));
  if (!parsed.success) {
    throw new UnpackError(
      'MANIFEST_INVALID',
      `${path}: manifest.json does not have the fields that docker save writes`,
      {
        cause: parsed.error,
      },
    );
  }
  const blobs = new Map<BlobDigest, LocalBlob>();
  const described = new Map<string, StoredLayer>(); // images share layers
  const need = async (name: string): Promise<LocalBlob> => {
    const blob = await entry(name);
    if (blob !== undefined) return blob;
    throw new UnpackError('BLOB_NOT_FOUND', `${path} has no file ${name}, but its manifest.json lists this file`);
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
    const bytes = await readWhole(blob, what, CONFIG_LIMIT);
    const config = { mediaType: OCI_CONFIG, digest: digestOf(bytes), size: bytes.length };
    blobs.set(config.digest, blob);
    const stored: StoredLayer[] = [];
    for (const name of Layers ?? []) stored.push(await layerOf(name));
    const { diffIds, platform } = parseConfig(bytes, what);
    const layers = describeLayers(stored, diffIds, path);
    const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers }));
    const descriptor = { mediaType: OCI_MANIFEST, digest: digestOf(manifest), size: manifest.length };
    blobs.set(descriptor.digest, memoryBlob(manifest));
    images.push(...named(descriptor, platform, RepoTags ?? []));
  }
  return { images, blobs };
}

function named(descriptor: Descriptor, platform: Platform | undefined, tags: readonly string[]): Descriptor[] {
  const whole = platform === undefined ? descriptor : { ...descriptor, platform };
  if (tags.length === 0) return [whole];
  return tags.map((tag) => ({ ...whole, annotations: { [REF_NAME]: tag } }));
}

/** A layer as it is stored in the archive. */
interface StoredLayer {
  readonly digest: BlobDigest;
  readonly size: number;
  /** Its first bytes. */
  readonly head: Buffer;
}

async function storedLayer(blob: LocalBlob): Promise<StoredLayer> {
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
 * The descriptors of layers. Layers are stored as tars, or compressed: go-containerregistry's tools write gzip, others zstd. A layer
 * with the digest of its DiffID is a tar, whatever its first bytes are.
 */
function describeLayers(layers: readonly StoredLayer[], diffIds: readonly string[], path: string): Descriptor[] {
  if (layers.length !== diffIds.length) {
    throw new UnpackError(
      'MANIFEST_INVALID',
      `${path}: the image has ${layers.length} layers, but its config has ${diffIds.length} diff_ids`,
    );
  }
  return layers.map(({ digest, size, head }, layerIndex) => {
    const expected = diffIds[layerIndex];
    const compression = digest === expected ? 'none' : byMagic(head);
    if (compression === 'none' && digest !== expected) {
      throw new UnpackError(
        'BLOB_DIGEST_MISMATCH',
        `layer ${layerIndex + 1} in ${path} does not have the diff_id of the config; save the image again`,
        {
          details: { layerIndex, layerCount: layers.length, actual: digest, ...(expected ? { expected } : {}) },
        },
      );
    }
    const suffix = compression === 'none' ? '' : `+${compression}`;
    return { mediaType: `application/vnd.oci.image.layer.v1.tar${suffix}`, digest, size };
  });
}
