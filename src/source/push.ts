import { throwIfAborted, UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { type BlobDigest, shortDigest } from '../oci/digest.ts';
import { REF_NAME } from '../oci/image-index.ts';
import { parseJson } from '../oci/json-fields.ts';
import { DOCUMENT_LIMIT, parseIndex, references } from '../oci/manifest.ts';
import { documentKind, OCI_INDEX } from '../oci/media-type.ts';
import { type BucketKeys, bucketKeys, checkedBucket, checkedTag } from './bucket-layout.ts';
import { type ImageArchive, openImageArchive } from './image-archive.ts';
import type { BucketLayout, S3Connection } from './source-spec.ts';
import { whole } from './stored-blob.ts';
import { openUploader, type Uploader } from './uploader.ts';

/** Tries to change `index.json` while others change it too. */
const INDEX_TRIES = 10;

export interface PushOptions {
  /** An OCI layout folder, a tar of one, or what `docker save` wrote. */
  readonly path: string;
  /** Which of its images, by name; default: the one called `tag`, or the only one. */
  readonly image?: string | undefined;
  readonly bucket: string;
  readonly prefix: string;
  /** Default: `oci`. */
  readonly layout?: BucketLayout | undefined;
  /** For the layout `distribution`, where it is not part of `layout`. */
  readonly repository?: string | undefined;
  /** Default: the tag that the image has, else `latest`. The layout `keys` has no tags. */
  readonly tag?: string | undefined;
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
}

/**
 * Copies an image into a bucket in one of the layouts that sources read, with everything that its index lists. Blobs
 * come before the manifests that name them and the tag comes last, so that a reader never finds half an image. Blobs
 * that are there with the right size are not sent again; the bytes of the others are verified on their way.
 * @throws UnpackError IMAGE_NOT_FOUND, BLOB_NOT_FOUND, BLOB_DIGEST_MISMATCH, MANIFEST_INVALID, INVALID_JOB (tag, prefix,
 *   bucket, layout), SOURCE_DENIED, SOURCE_UNAVAILABLE
 */
export async function pushImage(options: PushOptions): Promise<PushedImage> {
  const { signal, onProgress } = options;
  throwIfAborted(signal);
  const keys = bucketKeys(withRepository(options.layout ?? { kind: 'oci' }, options.repository), options.prefix);
  const bucket = checkedBucket(options.bucket);
  const archive = await openImageArchive(options.path);
  try {
    const image = chooseImage(archive, options.image, options.tag);
    const tag = keys.layout.kind === 'keys' ? undefined : checkedTag(options.tag ?? tagOf(image) ?? 'latest');
    const all = await contents(archive, image);
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
          await uploader.putBlob(key, descriptor, await archive.blob(descriptor.digest));
        }
      }
      await announce(uploader, keys, all, image, tag);
      return {
        digest: image.digest,
        mediaType: image.mediaType,
        ...(tag === undefined ? {} : { tag }),
        uploaded: { count: all.length - skippedCount, bytes: sent },
        skipped: { count: skippedCount, bytes: skippedBytes },
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

function chooseImage(archive: ImageArchive, name: string | undefined, tag: string | undefined): Descriptor {
  const { images, path } = archive;
  const called = (wanted: string) =>
    images.find(({ annotations }) => annotations?.[REF_NAME] === wanted) ??
    images.find((image) => tagOf(image) === wanted);
  const found = name !== undefined ? called(name) : ((tag === undefined ? undefined : called(tag)) ?? onlyOne(images));
  if (found !== undefined) return found;
  const names = images.map((image) => image.annotations?.[REF_NAME] ?? shortDigest(image.digest));
  const which = name === undefined ? `${images.length} images; say which one` : `no image ${JSON.stringify(name)}`;
  throw new UnpackError('IMAGE_NOT_FOUND', `${path} has ${which}${names.length === 0 ? '' : `: ${names.join(', ')}`}`);
}

function onlyOne(images: readonly Descriptor[]): Descriptor | undefined {
  const [first] = images;
  return images.every(({ digest }) => digest === first?.digest) ? first : undefined;
}

/** The tag in an image's name: all of `v1`, the end of `example.com/app:v1`. */
function tagOf(image: Descriptor): string | undefined {
  const name = image.annotations?.[REF_NAME];
  return name === undefined ? undefined : (/:([^/:]+)$/.exec(name)?.[1] ?? (name.includes('/') ? undefined : name));
}

/** Everything that makes up the image, each once, what is named before what names it. */
async function contents(archive: ImageArchive, image: Descriptor): Promise<Descriptor[]> {
  const found = new Map<BlobDigest, Descriptor>();
  const visit = async (descriptor: Descriptor): Promise<void> => {
    if (found.has(descriptor.digest)) return;
    if (documentKind(descriptor.mediaType) !== undefined) {
      const what = `${archive.path}: manifest ${shortDigest(descriptor.digest)}`;
      const bytes = await whole(await archive.blob(descriptor.digest), what);
      for (const child of references(bytes, what)) await visit(child);
    }
    found.set(descriptor.digest, descriptor);
  };
  await visit(image);
  return [...found.values()];
}

/** Makes the image known under its tag, as the layout does it. */
async function announce(
  uploader: Uploader,
  keys: BucketKeys,
  all: readonly Descriptor[],
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
  for (const { digest, mediaType } of all) {
    const kind = documentKind(mediaType) === undefined ? '_layers' : '_manifests/revisions';
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
  const entry = { ...image, annotations: { ...image.annotations, [REF_NAME]: tag } };
  if (old === undefined) return { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [entry] };
  // checked as an index, and kept as it is: with fields that this program does not know
  const { manifests } = parseIndex(old, key);
  const raw = parseJson(old, key) as { readonly manifests: readonly unknown[] };
  const kept = raw.manifests.filter((_, index) => manifests[index]?.labels.annotations?.[REF_NAME] !== tag);
  return { ...raw, manifests: [...kept, entry] };
}
