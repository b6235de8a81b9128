import type { S3Client } from '@aws-sdk/client-s3';
import type { S3Connection } from './source-spec.ts';

/** What the AWS SDK is needed for. It is loaded when it is first used: that takes as long as unpacking a small image. */
export const sdk = () => import('./s3-client.ts');

/** The SDK's clients, one for each connection however many sources use it: each keeps credentials and open sockets. */
export class S3Clients {
  readonly #clients = new Map<string, Promise<S3Client>>();

  get(connection: S3Connection): Promise<S3Client> {
    const key = JSON.stringify(connection);
    let client = this.#clients.get(key);
    if (client === undefined) {
      client = sdk().then(({ s3Client }) => s3Client(connection));
      this.#clients.set(key, client);
      // what could not be loaded now, for want of files or memory, may be the next time
      client.catch(() => this.#clients.delete(key));
    }
    return client;
  }

  /** Closes their connections. */
  close(): void {
    for (const client of this.#clients.values()) client.then((made) => made.destroy()).catch(() => {});
    this.#clients.clear();
  }
}
