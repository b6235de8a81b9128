import { UnpackError } from '../errors.ts';
import { SpareBuffers } from '../system/spare-buffers.ts';
import type { BlobSource } from './blob-source.ts';
import { FILE_CHUNK, openFileBlob } from './file-blob.ts';
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
   * A source with the granted blob only. A chunk is valid until the next one is requested.
   * @param window returns the present maximum memory of a download in bytes
   * @param renew gets a new URL, if the server has refused the granted one
   */
  open(grant: BlobGrant, window?: () => number, renew?: RenewUrl): BlobSource {
    if (grant.kind === 'file') {
      return sourceOf(grant, 0, (digest, options) => openFileBlob(grant.path, digest, options, this.#fileBuffers));
    }
    const object = this.#downloader.object(grant, window, renew);
    return sourceOf(grant, grant.maxResumes, (_digest, options) => object.open(options));
  }

  /** Closes idle connections. */
  close(): void {
    this.#downloader.close();
  }
}

function sourceOf(grant: BlobGrant, maxResumes: number, open: BlobSource['open']): BlobSource {
  return {
    name: grant.name,
    maxResumes,
    open,
    grant: async () => grant,
    resolveTag() {
      throw new UnpackError('INTERNAL', `${grant.name}: only one blob of this source can be read here`);
    },
    close() {},
  };
}
