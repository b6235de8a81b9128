import type { BlobSource } from './blob-source.ts';
import { openOciLayout } from './oci-layout.ts';
import { openS3Source } from './s3.ts';
import type { S3Clients } from './s3-clients.ts';
import type { SourceSpec } from './source-spec.ts';

/**
 * The source that a specification describes. Nothing is contacted before the first read; the caller closes it.
 * @param shared clients for buckets that outlive the source; default: its own
 * @throws UnpackError INVALID_JOB
 */
export function openSource(spec: SourceSpec, shared?: S3Clients): BlobSource {
  return spec.kind === 's3' ? openS3Source(spec, shared) : openOciLayout(spec);
}
