import { throwIfAborted, UnpackError } from '../errors.ts';
import { type Descriptor, descriptorJson } from '../oci/descriptor.ts';
import { type BlobDigest, shortDigest } from '../oci/digest.ts';
import { REF_NAME, readLayoutIndex } from '../oci/image-index.ts';
import { DOCUMENT_LIMIT } from '../oci/manifest.ts';
import { OCI_INDEX } from '../oci/media-type.ts';
import type { Platform } from '../oci/platform.ts';
import { type BucketKeys, bucketKeys, checkedBucket, checkedTag } from '../source/bucket-layout.ts';
import type { BucketLayout, S3Connection } from '../source/source-spec.ts';
import { type ChosenImage, chooseImage } from './choose-image.ts';
import { openImageArchive } from './image-archive.ts';
import { type FindBlob, type ImageContents, imageContents } from './image-contents.ts';
import type { StoredBlob } from './stored-blob.ts';
import { openUploader, type Uploader } from './uploader.ts';

/** Tries to change `index.json` while others change it too. */
const INDEX_TRIES = 10;

export interface PushOptions {
  /** An OCI layout folder, a tar of one, or what `docker save` wrote. */
  readonly path: string;
  /** Which of its images, by name, tag or digest; default: the one called `tag`, or the only one. */
  readonly image?: string | undefined;
  readonly bucket: string;
  readonly prefix: string;
  /** Default: `oci`. */
  readonly layout?: BucketLayout | undefined;
  /** For the layout `distribution`, where it is not part of `layout`. */
  readonly repository?: string | undefined;
  /** Default: the tag that the image has, else `latest`. The layout `keys` has no tags. */
  readonly tag?: string | undefined;
  /** Of an index: only the images for these, and the index as it is. Default: all that it lists. */
  readonly platforms?: readonly Platform[] | undefined;
  readonly connection: S3Connection;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: PushProgress) => void) | undefined;
}

/** Bytes of blobs, manifests and indexes; `sent` and `skipped` grow until they make up `total`. */
export interface PushProgress {
  readonly total: number;
  readonly sent: number;
  readonly skipped: number;
}

export interface PushedImage {
  /** Of the manifest or index: what a job names. */
  readonly digest: BlobDigest;
  readonly mediaType: string;
  /** Absent in the layout `keys`. */
  readonly tag?: string;
  /** Blobs, manifests and indexes that were uploaded, and those that were there. */
  readonly uploaded: { readonly count: number; readonly bytes: number };
  readonly skipped: { readonly count: number; readonly bytes: number };
  /** What the image's index lists and was not copied, in words. */
  readonly leftOut: readonly string[];
}

/**
 * Copies an image into a bucket in one of the layouts that sources read, with everything that its index lists. Blobs
 * come before the manifests that name them and the tag comes last, so that a reader never finds half an image. Blobs
 * that are there with the right size are not sent again; the bytes of the others are verified on their way.
 * @throws UnpackError IMAGE_NOT_FOUND, BLOB_NOT_FOUND, BLOB_DIGEST_MISMATCH, MANIFEST_INVALID, INVALID_JOB (tag, prefix,
 *   bucket, layout), PLATFORM_NOT_FOUND, UNSUPPORTED_MEDIA_TYPE (of the packing), SOURCE_DENIED, SOURCE_UNAVAILABLE
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
    const report = () => onProgress?.({ total, sent, skipped: skippedBytes });
    const uploader = openUploader(options.connection, bucket, {
      signal,
      onBytes(count) {
        sent += count;
        report();
      },
    });
    try {
      let skippedCount = 0;
      for (const descriptor of all) {
        const key = keys.blob(descriptor.digest);
        if (await uploader.has(key, descriptor.size)) {
          skippedCount += 1;
          skippedBytes += descriptor.size;
          report();
        } else {
          await uploader.putBlob(key, descriptor, await need(find, contents, descriptor, archive.path));
        }
      }
      await announce(uploader, keys, contents, image, tag);
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

/** @throws UnpackError INVALID_JOB where neither the caller nor the image gives one that can be */
function tagFor(given: string | undefined, { tag }: ChosenImage, path: string): string {
  if (given !== undefined || tag === undefined) return checkedTag(given ?? 'latest');
  try {
    return checkedTag(tag);
  } catch (cause) {
    throw new UnpackError(
      'INVALID_JOB',
      `the image in ${path} is called ${JSON.stringify(tag)}, which is no tag: write one at the end of the target`,
      { cause },
    );
  }
}

async function need(
  find: FindBlob,
  { embedded }: ImageContents,
  { digest }: Descriptor,
  path: string,
): Promise<StoredBlob> {
  const blob = (await find(digest)) ?? embedded.get(digest);
  if (blob !== undefined) return blob;
  throw new UnpackError('BLOB_NOT_FOUND', `${path} lost the blob ${shortDigest(digest)} while it was read`, {
    details: { digest },
  });
}

/** Makes the image known under its tag, as the layout does it. */
async function announce(
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

/** Adds the image to `index.json`, keeps the others, and notices when somebody else changes it meanwhile. */
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
  // kept as it is, with entries and fields that this program does not know
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
