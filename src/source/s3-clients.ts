import type { S3Client } from '@aws-sdk/client-s3';
import { ObjectDownloader } from './object-downloader.ts';
import type { S3Connection } from './source-spec.ts';

/**
 * Loads the AWS SDK at the first use, because loading takes as long as unpacking a small image. A failure is final, because
 * Node keeps it for the life of the process. So the worker loads the SDK when it starts.
 */
export const sdk = () => import('./s3-client.ts');

/**
 * Clients that all sources of buckets share: the downloader with its connections, and an AWS SDK client for each S3
 * setting. The SDK clients sign URLs and keep credentials.
 */
export class S3Clients {
  readonly downloader = new ObjectDownloader();
  readonly #clients = new Map<string, Promise<S3Client>>();

  get(connection: S3Connection): Promise<S3Client> {
    const key = JSON.stringify(connection);
    let client = this.#clients.get(key);
    if (client === undefined) {
      client = sdk().then(({ s3Client }) => s3Client(connection));
      this.#clients.set(key, client);
      // the client cannot be made if a file of its settings cannot be read; the next call tries again
      client.catch(() => this.#clients.delete(key));
    }
    return client;
  }

  /** Closes idle connections. */
  close(): void {
    this.downloader.close();
    for (const client of this.#clients.values()) client.then((made) => made.destroy()).catch(() => {});
    this.#clients.clear();
  }
}
