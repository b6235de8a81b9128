import type { BlobSource } from './blob-source.ts';
import { bucketKeys, checkedBucket } from './bucket-layout.ts';
import { ObjectSigner } from './object-signer.ts';
import { S3Clients } from './s3-clients.ts';
import type { S3SourceSpec, SignatureRefusal } from './source-spec.ts';
import { TagFiles } from './tag-files.ts';
import { Tags } from './tags.ts';

/** Lifetime in seconds of a URL for a read by this thread. */
const SIGNED_FOR = 3600;

/**
 * Lifetime in seconds of a granted URL: longer than most layers take. If the credentials expire earlier, the URL is
 * renewed.
 */
const GRANTED_FOR = 12 * 3600;

/**
 * A source for the images in a bucket. Its connections stay open for the next request until `close`, or until `shared` is closed.
 * @param shared clients that other sources use, too. Default: a new S3Clients, which this source closes
 * @throws UnpackError INVALID_JOB for a bucket, prefix or layout that cannot exist
 */
export function openS3Source(spec: S3SourceSpec, shared?: S3Clients): BlobSource {
  const clients = shared ?? new S3Clients();
  const { downloader } = clients;
  const bucket = checkedBucket(spec.bucket);
  const keys = bucketKeys(spec.layout, spec.prefix);
  const signer = new ObjectSigner(spec.connection, bucket, clients);
  const { maxResumes } = spec.connection;
  const signTagFile = (key: string, refused?: SignatureRefusal) =>
    signer.sign(key, { missing: 'IMAGE_NOT_FOUND', seconds: SIGNED_FOR, refused });
  const tags = new Tags(keys, new TagFiles(downloader, signTagFile, maxResumes));
  return {
    name: `s3://${bucket}${keys.prefix === '' ? '' : `/${keys.prefix.slice(0, -1)}`}`,
    maxResumes,
    async open(digest, options) {
      const { signal } = options;
      const sign = (refused?: SignatureRefusal) =>
        signer.sign(keys.blob(digest), { missing: 'BLOB_NOT_FOUND', seconds: SIGNED_FOR, digest, signal, refused });
      return downloader.read(await sign(), options, sign);
    },
    async grant({ digest, size }, refused) {
      const options = { missing: 'BLOB_NOT_FOUND', seconds: GRANTED_FOR, digest, refused } as const;
      const url = await signer.sign(keys.blob(digest), options);
      return { kind: 'signed-url', name: `s3://${bucket}`, size, maxResumes, ...url };
    },
    resolveTag: (tag, signal) => tags.resolve(tag, signal),
    close: () => (shared === undefined ? clients.close() : undefined),
  };
}
