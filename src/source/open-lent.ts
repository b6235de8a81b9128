import type { BlobSource } from './blob-source.ts';
import { lentFile } from './file-blob.ts';
import { openHttpBlob } from './http-blob.ts';
import type { LentSpec } from './source-spec.ts';

/**
 * The blob that a source has lent. What this needs is loaded by every apply thread, so it is kept small.
 * @param window bytes that a download may hold now
 */
export function openLent(spec: LentSpec, window?: () => number): BlobSource {
  return spec.kind === 'file-blob' ? lentFile(spec) : openHttpBlob(spec, window);
}
