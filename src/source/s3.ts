import type { BlobDigest } from '../oci/digest.ts';
import type { BlobSource, BlobStream, OpenOptions } from './blob-source.ts';
import { bucketKeys, checkedBucket } from './bucket-layout.ts';
import { ObjectSigner } from './object-signer.ts';
import { readObject } from './presigned-blob.ts';
import { S3Clients } from './s3-clients.ts';
import type { BlobGrant, S3SourceSpec, SignatureRefusal } from './source-spec.ts';
import { type Asking, SIGNED_FOR, TagFiles } from './tag-files.ts';
import { Tags } from './tags.ts';

export type { BucketLayout, S3Connection, S3SourceSpec } from './source-spec.ts';

/** Seconds; longer than most layers take. Credentials that end before end the permission too, and it is asked for anew. */
const LENT_FOR = 12 * 3600;

/**
 * The images in a bucket. Connections are kept for the next request until `close`, or as long as `shared` is open.
 * @param shared clients that other sources use too; default: its own
 * @throws UnpackError INVALID_JOB when bucket, prefix or layout can't be
 */
export function openS3Source(spec: S3SourceSpec, shared?: S3Clients): BlobSource {
  const clients = shared ?? new S3Clients();
  const bucket = checkedBucket(spec.bucket);
  const keys = bucketKeys(spec.layout, spec.prefix);
  const signer = new ObjectSigner(spec.connection, bucket, clients);
  const { maxResumes } = spec.connection;
  const asking: Asking = {
    sign: (key, refused) => signer.sign(key, { missing: 'IMAGE_NOT_FOUND', seconds: SIGNED_FOR, refused }),
    maxResumes,
  };
  const tags = new Tags(keys, new TagFiles(asking));
  return {
    name: `s3://${bucket}${keys.prefix === '' ? '' : `/${keys.prefix.slice(0, -1)}`}`,
    maxResumes,
    open: async (digest, options) => openBlob(signer, keys.blob(digest), digest, options),
    grant: async ({ digest, size }, refused): Promise<BlobGrant> => {
      const url = { missing: 'BLOB_NOT_FOUND', seconds: LENT_FOR, digest, refused } as const;
      return {
        kind: 'signed-url',
        name: `s3://${bucket}`,
        size,
        maxResumes,
        ...(await signer.sign(keys.blob(digest), url)),
      };
    },
    resolveTag: (tag, signal) => tags.resolve(tag, signal),
    close: () => (shared === undefined ? clients.close() : undefined),
  };
}

async function openBlob(
  signer: ObjectSigner,
  key: string,
  digest: BlobDigest,
  options: OpenOptions,
): Promise<BlobStream> {
  const { signal } = options;
  const sign = (refused?: SignatureRefusal) =>
    signer.sign(key, { missing: 'BLOB_NOT_FOUND', seconds: SIGNED_FOR, digest, signal, refused });
  return readObject(await sign(), options, sign);
}
