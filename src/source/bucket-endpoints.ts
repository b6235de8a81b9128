import type { S3Connection } from './source-spec.ts';

/** The connections for all buckets: the general one, and those of the file UNPACK_S3_ENDPOINTS. */
export interface S3Connections {
  readonly connection: S3Connection;
  readonly endpoints?: readonly BucketEndpoint[] | undefined;
}

/** A connection for the buckets whose names match a pattern, in which `*` stands for any characters. */
export interface BucketEndpoint {
  readonly pattern: string;
  readonly connection: S3Connection;
}

/** The connection for a bucket: of the first pattern that matches, or the general one. */
export function connectionFor({ connection, endpoints = [] }: S3Connections, bucket: string): S3Connection {
  return endpoints.find(({ pattern }) => matchesBucket(pattern, bucket))?.connection ?? connection;
}

/** Whether a pattern is for a bucket. It is also for all buckets of a pattern that it matches. */
export function matchesBucket(pattern: string, bucket: string): boolean {
  const expression = pattern.split('*').map((part) => part.replace(/[.\\+?^$()[\]{}|]/g, '\\$&'));
  return new RegExp(`^${expression.join('.*')}$`, 's').test(bucket);
}
