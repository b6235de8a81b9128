import { GetObjectCommand, type S3Client, S3ServiceException } from '@aws-sdk/client-s3';
import { connectionFor, type S3Connections } from '../source/bucket-endpoints.ts';
import { s3Client } from '../source/s3-client.ts';
import type { S3Connection } from '../source/source-spec.ts';
import { type Check, fail, ok, reason, warn } from './check.ts';

/** Checks of S3, for `unpackd doctor`. */

/** A key that no image has. The error of the server shows whether endpoint, bucket or credentials are wrong. */
const PROBE = 'unpackd-doctor-asks-for-what-is-not-there';

/** Checks that each bucket can be read with the worker's credentials. Without buckets it checks only that there are credentials. */
export async function checkS3(connections: S3Connections, buckets: readonly string[]): Promise<Check[]> {
  const { connection, endpoints = [] } = connections;
  const general = buckets.filter((bucket) => connectionFor(connections, bucket) === connection);
  const checks = [];
  // without a bucket of its own, the general connection is checked only if there are no others
  if (general.length > 0 || endpoints.length === 0) checks.push(checkConnection(connection, general));
  for (const entry of endpoints) {
    const matching = buckets.filter((bucket) => connectionFor(connections, bucket) === entry.connection);
    const isName = !entry.pattern.includes('*');
    const checked = checkConnection(entry.connection, matching.length > 0 || !isName ? matching : [entry.pattern]);
    checks.push(
      checked.then((found) => found.map((check) => ({ ...check, name: `${check.name} (${entry.pattern})` }))),
    );
  }
  return (await Promise.all(checks)).flat();
}

async function checkConnection(connection: S3Connection, buckets: readonly string[]): Promise<Check[]> {
  const client = s3Client(connection);
  const where = connection.endpoint ?? `AWS ${connection.region}`;
  try {
    await client.config.credentials();
  } catch (error) {
    client.destroy();
    return [
      fail(
        'S3 credentials',
        `none found: ${reason(error)}`,
        'set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role',
      ),
    ];
  }
  try {
    if (buckets.length === 0) {
      return [
        warn('S3', `credentials found; no bucket to check at ${where}`, 'name one with --bucket or in UNPACK_BUCKETS'),
      ];
    }
    return await Promise.all(buckets.map((bucket) => checkBucket(client, bucket, where)));
  } finally {
    client.destroy();
  }
}

async function checkBucket(client: S3Client, bucket: string, where: string): Promise<Check> {
  const name = `S3 bucket ${bucket}`;
  try {
    const answer = await client.send(new GetObjectCommand({ Bucket: bucket, Key: PROBE }));
    answer.Body?.transformToByteArray().catch(() => {});
    return ok(name, `readable at ${where}`);
  } catch (error) {
    if (!(error instanceof S3ServiceException)) {
      return fail(name, `${where} does not answer: ${reason(error)}`, 'correct S3_ENDPOINT, or start the S3 server');
    }
    switch (error.name) {
      case 'NoSuchKey':
        return ok(name, `readable at ${where}`);
      case 'NoSuchBucket':
        return fail(name, `does not exist at ${where}`, 'create the bucket, or correct the name');
      case 'AccessDenied':
        return warn(
          name,
          'access denied for an object that does not exist',
          'this is in order if the credentials are allowed to get objects but not to list the bucket; else allow s3:GetObject on the bucket',
        );
      case 'InvalidAccessKeyId':
      case 'SignatureDoesNotMatch':
        return fail(name, `${error.name} at ${where}`, 'correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY');
      case 'PermanentRedirect':
      case 'AuthorizationHeaderMalformed':
        return fail(name, `${error.name}: ${reason(error)}`, 'set AWS_REGION to the region of the bucket');
      default:
        return fail(
          name,
          `${error.name} (${error.$metadata.httpStatusCode ?? 'no status'}): ${reason(error)}`,
          'see the log of the S3 server',
        );
    }
  }
}
