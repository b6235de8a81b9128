import type { BlobSource } from './blob-source.ts';
import { lentFile } from './file-blob.ts';
import { openHttpBlob, type Renew } from './http-blob.ts';
import type { LentSpec } from './source-spec.ts';

/**
 * The blob that a source has lent. What this needs is loaded by every apply thread, so it is kept small.
 * @param window bytes that a download may hold now
 * @param renew asks who lent it for another permission
 */
export function openLent(spec: LentSpec, window?: () => number, renew?: Renew): BlobSource {
  return spec.kind === 'file-blob' ? lentFile(spec) : openHttpBlob(spec, window, renew);
}
