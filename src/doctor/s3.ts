import { GetObjectCommand, type S3Client, S3ServiceException } from '@aws-sdk/client-s3';
import { connectionFor, type S3Connections } from '../source/bucket-endpoints.ts';
import { s3Client } from '../source/s3-client.ts';
import { s3Error } from '../source/s3-errors.ts';
import { USUAL_SETTINGS } from '../source/setting-names.ts';
import type { S3Connection } from '../source/source-spec.ts';
import { type Check, fail, ok, reason, warn } from './check.ts';

/** Checks of S3, for `unpackd doctor`. */

/** A key that no image has. The error of the server shows whether endpoint, bucket or credentials are wrong. */
const PROBE = 'unpackd-doctor-asks-for-what-is-not-there';
/** A bucket that nobody has, if none is given. */
const PROBE_BUCKET = 'unpackd-doctor-probe';
/** Errors that only a server sends that has accepted the credentials. */
const FROM_S3 = new Set(['NoSuchKey', 'NoSuchBucket', 'AccessDenied']);

/**
 * Checks that each bucket can be read with the worker's credentials. For a connection without buckets it checks that there are
 * credentials, and that its endpoint, unless it is Amazon's, answers and accepts them.
 */
export async function checkS3(connections: S3Connections, buckets: readonly string[]): Promise<Check[]> {
  const { connection, endpoints = [] } = connections;
  const general = buckets.filter((bucket) => connectionFor(connections, bucket) === connection);
  const checks = [];
  // without a bucket of its own, the general connection is checked only if there are no others
  if (general.length > 0 || endpoints.length === 0) checks.push(checkConnection(connection, general));
  for (const entry of endpoints) {
    const matching = buckets.filter((bucket) => connectionFor(connections, bucket) === entry.connection);
    const isName = !entry.pattern.includes('*');
    const checked = checkConnection(
      entry.connection,
      matching.length > 0 || !isName ? matching : [entry.pattern],
      entry.pattern,
    );
    checks.push(
      checked.then((found) => found.map((check) => ({ ...check, name: `${check.name} (${entry.pattern})` }))),
    );
  }
  return (await Promise.all(checks)).flat();
}

/** An endpoint that answers, but not as S3 does. */
class NotS3Error extends Error {
  override readonly name = 'NotS3Error';
}

async function checkConnection(connection: S3Connection, buckets: readonly string[], pattern = '*'): Promise<Check[]> {
  const { caBundle, credentials } = connection.settings ?? USUAL_SETTINGS;
  const where = placeOf(connection);
  let client: S3Client;
  try {
    // without a time limit, a server that never answers would stop all checks
    client = s3Client(connection, { socketTimeout: connection.idleTimeout });
  } catch (error) {
    return [fail('S3', reason(error), `correct ${caBundle}`)];
  }
  try {
    try {
      await client.config.credentials();
    } catch (error) {
      return [
        fail(
          'S3 credentials',
          `none found: ${reason(error)}`,
          `set ${credentials}, or AWS_PROFILE, or give the machine a role`,
        ),
      ];
    }
    if (buckets.length > 0) {
      const check = async (bucket: string) => checkOf(await errorOf(client, bucket), connection, bucket);
      return await Promise.all(buckets.map(check));
    }
    const advice = 'name one with --bucket or in UNPACK_BUCKETS';
    // AWS itself is not asked about a bucket that can belong to anybody
    if (connection.endpoint === undefined) {
      return [warn('S3', `credentials found; no bucket to check at ${where}`, advice)];
    }
    const bucket = pattern.replaceAll('*', PROBE_BUCKET);
    const error = await errorOf(client, bucket);
    if (!FROM_S3.has(nameOf(error))) return [{ ...checkOf(error, connection, bucket), name: 'S3' }];
    return [warn('S3', `${where} answers and accepts the credentials; no bucket to check`, advice)];
  } finally {
    client.destroy();
  }
}

const placeOf = ({ endpoint, region }: S3Connection): string => endpoint ?? `AWS ${region}`;

/** The error of a read of an object that does not exist. */
async function errorOf(client: S3Client, bucket: string): Promise<unknown> {
  try {
    const { Body, ContentType } = await client.send(new GetObjectCommand({ Bucket: bucket, Key: PROBE }));
    Body?.transformToByteArray().catch(() => {});
    return new NotS3Error(
      `answers with a page (${ContentType ?? 'of an unknown type'}) for an object that does not exist`,
    );
  } catch (error) {
    return error;
  }
}

const nameOf = (error: unknown): string => (error instanceof S3ServiceException ? error.name : '');

function checkOf(error: unknown, connection: S3Connection, bucket: string): Check {
  const name = `S3 bucket ${bucket}`;
  const where = placeOf(connection);
  const { endpoint } = connection.settings ?? USUAL_SETTINGS;
  if (error instanceof NotS3Error) {
    return fail(name, `${where} ${error.message}`, `correct ${endpoint}: it is possibly the address of a web console`);
  }
  switch (nameOf(error)) {
    case 'NoSuchKey':
      return ok(name, `readable at ${where}`);
    case 'NoSuchBucket':
      return fail(name, `does not exist at ${where}`, `create the bucket, or correct the name or ${endpoint}`);
    case 'AccessDenied':
      return warn(
        name,
        'access denied for an object that does not exist',
        'this is in order if the credentials are allowed to get objects but not to list the bucket; else allow s3:GetObject on the bucket',
      );
    default: {
      const request = { bucket, endpoint: connection.endpoint, settings: connection.settings } as const;
      const { code, message } = s3Error(error, { ...request, missing: 'IMAGE_NOT_FOUND' });
      // the last part of a message says what to do
      const [, finding = message, advice] = /^(.*); ([^;]*)$/.exec(message) ?? [];
      const other = code === 'SOURCE_UNAVAILABLE' ? 'start the S3 server' : 'see the log of the S3 server';
      return fail(name, finding, advice ?? `correct ${endpoint}, or ${other}`);
    }
  }
}
