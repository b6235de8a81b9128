import type { BlobSource } from './blob-source.ts';
import { openFileGrant } from './file-blob.ts';
import { openUrlGrant, type Renew } from './presigned-blob.ts';
import type { BlobGrant } from './source-spec.ts';

/**
 * The blob that a source has lent. What this needs is loaded by every apply thread, so it is kept small.
 * @param window bytes that a download may hold now
 * @param renew asks who lent it for another permission
 */
export function openGrant(spec: BlobGrant, window?: () => number, renew?: Renew): BlobSource {
  return spec.kind === 'file' ? openFileGrant(spec) : openUrlGrant(spec, window, renew);
}
