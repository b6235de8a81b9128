import { throwIfAborted, UnpackError } from '../errors.ts';
import { type Descriptor, descriptorJson } from '../oci/descriptor.ts';
import { type BlobDigest, shortDigest } from '../oci/digest.ts';
import { REF_NAME, readLayoutIndex } from '../oci/image-index.ts';
import { DOCUMENT_LIMIT } from '../oci/manifest.ts';
import { isConfigType, OCI_INDEX } from '../oci/media-type.ts';
import type { Platform } from '../oci/platform.ts';
import { type BucketKeys, bucketKeys, checkedBucket, checkedTag } from '../source/bucket-layout.ts';
import type { BucketLayout, S3Connection } from '../source/source-spec.ts';
import { type ChosenImage, chooseImage } from './choose-image.ts';
import { openImageArchive } from './image-archive.ts';
import { type FindBlob, type ImageContents, imageContents } from './image-contents.ts';
import type { LocalBlob } from './local-blob.ts';
import { openUploader, type Uploader } from './uploader.ts';

/** Maximum number of tries to change `index.json` while other pushes change it. */
const INDEX_TRIES = 10;

export interface PushOptions {
  /** An OCI layout folder, a tar of one, or a `docker save` archive. */
  readonly path: string;
  /** Name, tag or digest of an image in it. Default: the image called `tag`, or the only one. */
  readonly image?: string | undefined;
  readonly bucket: string;
  readonly prefix: string;
  /** Default: `oci`. */
  readonly layout?: BucketLayout | undefined;
  /** The repository for the layout `distribution`, if `layout` has none. */
  readonly repository?: string | undefined;
  /** Default: the tag of the image, else `latest`. The layout `keys` has no tags. */
  readonly tag?: string | undefined;
  /** The platforms of an index whose images are copied. The index itself is copied unchanged. Default: all. */
  readonly platforms?: readonly Platform[] | undefined;
  readonly connection: S3Connection;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: PushProgress) => void) | undefined;
}

/** Number of bytes of blobs, manifests and indexes. When the push is complete, `sent` plus `skipped` is `total`. */
export interface PushProgress {
  readonly total: number;
  readonly sent: number;
  readonly skipped: number;
  /** The layers, and the blobs of artifacts, in the order in which they are sent. */
  readonly layers: readonly PushedLayer[];
}

/** `waiting` → `sending` → `sent`, or `waiting` → `existed`. */
export interface PushedLayer {
  readonly digest: BlobDigest;
  readonly size: number;
  readonly sent: number;
  readonly state: 'waiting' | 'sending' | 'sent' | 'existed';
}

export interface PushedImage {
  /** The digest of the manifest or index, for a job. */
  readonly digest: BlobDigest;
  readonly mediaType: string;
  /** Absent in the layout `keys`. */
  readonly tag?: string;
  /** Blobs, manifests and indexes that were uploaded, and that were in the bucket already. */
  readonly uploaded: { readonly count: number; readonly bytes: number };
  readonly skipped: { readonly count: number; readonly bytes: number };
  /** Descriptions of the listed images and blobs that were not copied. */
  readonly leftOut: readonly string[];
}

/**
 * Copies an image into a bucket, in a layout that sources read, with everything that its index lists. Blobs are stored before the
 * manifests that refer to them, and the tag is written last, so that a reader never finds a part of an image. A blob that is in the
 * bucket with the right size is not sent again. The others are verified while they are sent.
 * @throws UnpackError IMAGE_NOT_FOUND, BLOB_NOT_FOUND, BLOB_DIGEST_MISMATCH, MANIFEST_INVALID, INVALID_JOB (tag, prefix,
 *   bucket, layout), PLATFORM_NOT_FOUND, UNSUPPORTED_MEDIA_TYPE (compression), SOURCE_DENIED, SOURCE_UNAVAILABLE
 */
export async function pushImage(options: PushOptions): Promise<PushedImage> {
  const { signal, onProgress } = options;
  throwIfAborted(signal);
  const keys = bucketKeys(withRepository(options.layout ?? { kind: 'oci' }, options.repository), options.prefix);
  const bucket = checkedBucket(options.bucket);
  const archive = await openImageArchive(options.path, signal);
  try {
    const chosen = await chooseImage(archive, options.image, options.tag, options.platforms);
    const tag = keys.layout.kind === 'keys' ? undefined : tagFor(options.tag, chosen, archive.path);
    const find: FindBlob = async (digest) => chosen.made?.get(digest) ?? archive.find(digest);
    const contents = await imageContents(chosen.descriptor, find, archive.path, options.platforms);
    const image = { ...chosen.descriptor, mediaType: contents.mediaType };
    const all = contents.blobs.map((blob) => (blob.digest === image.digest ? image : blob));
    const total = all.reduce((sum, { size }) => sum + size, 0);
    let sent = 0;
    let skippedBytes = 0;
    const isLayer = ({ digest, mediaType }: Descriptor) => !contents.documents.has(digest) && !isConfigType(mediaType);
    const layers = new Map(
      all
        .filter(isLayer)
        .map(({ digest, size }): [BlobDigest, PushedLayer] => [digest, { digest, size, sent: 0, state: 'waiting' }]),
    );
    let current: BlobDigest | undefined;
    const report = () => onProgress?.({ total, sent, skipped: skippedBytes, layers: [...layers.values()] });
    const change = (digest: BlobDigest | undefined, more: (layer: PushedLayer) => Partial<PushedLayer>) => {
      const layer = digest && layers.get(digest);
      if (layer !== undefined) layers.set(layer.digest, { ...layer, ...more(layer) });
      report();
    };
    const uploader = openUploader(options.connection, bucket, {
      signal,
      onBytes(count) {
        sent += count;
        change(current, (layer) => ({ sent: layer.sent + count }));
      },
    });
    try {
      let skippedCount = 0;
      for (const descriptor of all) {
        const key = keys.blob(descriptor.digest);
        if (await uploader.has(key, descriptor.size)) {
          skippedCount += 1;
          skippedBytes += descriptor.size;
          change(descriptor.digest, () => ({ state: 'existed' }));
        } else {
          current = descriptor.digest;
          change(current, () => ({ state: 'sending' }));
          await uploader.putBlob(key, descriptor, await need(find, contents, descriptor, archive.path));
          change(current, () => ({ state: 'sent' }));
        }
      }
      await writeTag(uploader, keys, contents, image, tag);
      return {
        digest: image.digest,
        mediaType: image.mediaType,
        ...(tag === undefined ? {} : { tag }),
        uploaded: { count: all.length - skippedCount, bytes: sent },
        skipped: { count: skippedCount, bytes: skippedBytes },
        leftOut: contents.leftOut,
      };
    } finally {
      uploader.close();
    }
  } finally {
    await archive.close();
  }
}

function withRepository(layout: BucketLayout, repository: string | undefined): BucketLayout {
  return layout.kind === 'distribution' && repository !== undefined ? { ...layout, repository } : layout;
}

/** @throws UnpackError INVALID_JOB for a tag that a bucket cannot have */
function tagFor(given: string | undefined, { tag }: ChosenImage, path: string): string {
  if (given !== undefined || tag === undefined) return checkedTag(given ?? 'latest');
  try {
    return checkedTag(tag);
  } catch (cause) {
    throw new UnpackError(
      'INVALID_JOB',
      `the image in ${path} is called ${JSON.stringify(tag)}, which is not a tag; append a tag to the target`,
      { cause },
    );
  }
}

async function need(
  find: FindBlob,
  { embedded }: ImageContents,
  { digest }: Descriptor,
  path: string,
): Promise<LocalBlob> {
  const blob = (await find(digest)) ?? embedded.get(digest);
  if (blob !== undefined) return blob;
  throw new UnpackError(
    'BLOB_NOT_FOUND',
    `${path} no longer has the blob ${shortDigest(digest)}; do not change it during a push`,
    {
      details: { digest },
    },
  );
}

/** Writes the tag, and the files that the layout needs for it. */
async function writeTag(
  uploader: Uploader,
  keys: BucketKeys,
  { blobs, documents }: ImageContents,
  image: Descriptor,
  tag: string | undefined,
): Promise<void> {
  if (tag === undefined) return;
  if (keys.layout.kind === 'oci') {
    await uploader.putFile(keys.file('oci-layout'), Buffer.from('{"imageLayoutVersion":"1.0.0"}'), 'application/json');
    await addToIndex(uploader, keys.file('index.json'), image, tag);
    return;
  }
  const link = (key: string, digest: BlobDigest) =>
    uploader.putFile(key, Buffer.from(digest), 'application/octet-stream');
  for (const { digest } of blobs) {
    const kind = documents.has(digest) ? '_manifests/revisions' : '_layers';
    await link(keys.repositoryLink(kind, digest), digest);
  }
  await link(keys.tagHistoryLink(tag, image.digest), image.digest);
  await link(keys.tagLink(tag), image.digest);
}

/**
 * Adds the image to `index.json`, and keeps the others. Starts again if another push has changed the index in the
 * meantime.
 */
async function addToIndex(uploader: Uploader, key: string, image: Descriptor, tag: string): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    const old = await uploader.getFile(key, DOCUMENT_LIMIT);
    const bytes = Buffer.from(JSON.stringify(withImage(old?.bytes, key, image, tag)));
    if (old?.bytes.equals(bytes)) return;
    try {
      await uploader.putFile(key, bytes, OCI_INDEX, { etag: old?.etag });
      return;
    } catch (error) {
      const changed = error instanceof UnpackError && error.code === 'BLOB_DIGEST_MISMATCH';
      if (!changed || attempt >= INDEX_TRIES) throw error;
    }
  }
}

function withImage(old: Buffer | undefined, key: string, image: Descriptor, tag: string): Record<string, unknown> {
  const entry = descriptorJson({ ...image, annotations: { ...image.annotations, [REF_NAME]: tag } });
  if (old === undefined) return { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [entry] };
  // unknown entries and fields are kept
  const { fields } = readLayoutIndex(old, key);
  const listed: readonly unknown[] = Array.isArray(fields.manifests) ? fields.manifests : [];
  const kept = listed.filter((one) => refNameOf(one) !== tag);
  return { ...fields, manifests: [...kept, entry] };
}

function refNameOf(entry: unknown): unknown {
  if (typeof entry !== 'object' || entry === null || !('annotations' in entry)) return undefined;
  const { annotations } = entry;
  if (typeof annotations !== 'object' || annotations === null) return undefined;
  return REF_NAME in annotations ? annotations[REF_NAME] : undefined;
}
