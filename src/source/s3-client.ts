import { GetObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import { nodeHttp, nodeHttps } from './node-http.ts';
import type { S3Connection } from './source-spec.ts';

/**
 * A client for `connection`, as readers of this project want it; who sends small or repeatable requests can have more
 * tries and a socket timeout (milliseconds). The caller destroys it.
 */
export function s3Client(
  connection: S3Connection,
  { maxAttempts = 1, socketTimeout = 0 }: { readonly maxAttempts?: number; readonly socketTimeout?: number } = {},
): S3Client {
  const agent = { keepAlive: true };
  const { Agent: HttpAgent } = nodeHttp();
  const { Agent: HttpsAgent } = nodeHttps();
  return new S3Client({
    region: connection.region,
    forcePathStyle: connection.forcePathStyle,
    ...(connection.endpoint === undefined ? {} : { endpoint: connection.endpoint }),
    // a copy: the SDK writes into it where they come from
    ...(connection.credentials === undefined ? {} : { credentials: { ...connection.credentials } }),
    // one try a request: a download continues where it broke, which the SDK's own tries don't
    maxAttempts,
    // digests prove the bytes; the SDK's CRC would read every byte again, and not all servers know its trailers
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: new NodeHttpHandler({
      connectionTimeout: connection.connectTimeout,
      // the SDK counts the time that the consumer is busy as silence; responseBody does not
      socketTimeout,
      httpAgent: new HttpAgent(agent),
      httpsAgent: new HttpsAgent(agent),
    }),
  });
}

/** Asks for an object, or for its bytes from `offset` on as long as it is the one of `etag`. */
export function getObject(bucket: string, key: string, offset = 0, etag?: string): GetObjectCommand {
  return new GetObjectCommand({
    Bucket: bucket,
    Key: key,
    ...(offset === 0 ? {} : { Range: `bytes=${offset}-` }),
    ...(offset === 0 || etag === undefined ? {} : { IfMatch: etag }),
  });
}

/** A URL that lets its holder read one object for some seconds. It needs no request. */
export function signedUrl(client: S3Client, bucket: string, key: string, seconds: number): Promise<string> {
  return getSignedUrl(client, getObject(bucket, key), { expiresIn: seconds });
}
