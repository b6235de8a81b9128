import { SpareBuffers } from '../system/spare-buffers.ts';
import type { BlobSource } from './blob-source.ts';
import { FILE_CHUNK, openFileGrant } from './file-blob.ts';
import { ObjectDownloader } from './object-downloader.ts';
import type { RenewUrl } from './signed-object.ts';
import type { BlobGrant } from './source-spec.ts';

/**
 * Opens blobs that a source has granted (`BlobSource.grant`). An apply thread has one, which keeps connections and buffers for
 * the next blob. Every apply thread loads this file, so it imports little.
 */
export class GrantedBlobs {
  readonly #downloader = new ObjectDownloader();
  readonly #fileBuffers = new SpareBuffers(FILE_CHUNK);

  /**
   * @param window returns the present maximum memory of a download in bytes
   * @param renew gets a new URL, if the server has refused the granted one
   */
  open(grant: BlobGrant, window?: () => number, renew?: RenewUrl): BlobSource {
    return grant.kind === 'file'
      ? openFileGrant(grant, this.#fileBuffers)
      : this.#downloader.open(grant, window, renew);
  }

  /** Closes idle connections. */
  close(): void {
    this.#downloader.close();
  }
}
