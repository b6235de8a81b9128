import { UnpackError } from '../errors.ts';
import type { ImageRequest, ImageTarget } from '../image/request.ts';
import { LruCache } from '../lru-cache.ts';
import type { Layer } from '../oci/descriptor.ts';
import { blobDigest, diffId } from '../oci/digest.ts';
import { parsePlatform } from '../oci/platform.ts';
import { repositoryOf } from '../oci/reference.ts';
import type { SourceSpec } from '../source/blob-source.ts';
import type { BucketLayout, S3Connection } from '../source/s3.ts';
import { problemSentence } from './payload-problems.ts';
import { type Payload, payloadSchema } from './payload-schema.ts';

/** A payload as the worker acts on it. */
export interface ParsedJob {
  readonly image: string;
  readonly source: SourceSpec;
  readonly request: ImageRequest;
  readonly labels: Readonly<Record<string, string>>;
}

/** What of the worker's own settings decides about a job. */
export interface SourcePolicy {
  readonly connection: S3Connection;
  /** Buckets that jobs may name; empty: any. */
  readonly buckets: readonly string[];
}

/**
 * Checks a payload's form and nothing else; producers call it before they enqueue.
 * @throws UnpackError INVALID_JOB with one sentence that names the first problems by their paths
 */
export function checkPayload(data: unknown): Payload {
  if (typeof data !== 'object' || data === null || Array.isArray(data)) {
    const kind = data === null ? 'null' : Array.isArray(data) ? 'a list' : `a ${typeof data}`;
    throw new UnpackError('INVALID_JOB', `the payload is ${kind}, not an object`);
  }
  const version: unknown = Reflect.get(data, 'version');
  if (typeof version === 'number' && version > 1) {
    // one cause, not the thirty differences that follow from it
    throw new UnpackError(
      'INVALID_JOB',
      `the payload has version ${version}, and this worker knows version 1: update the worker`,
    );
  }
  const parsed = payloadSchema.safeParse(data);
  if (!parsed.success)
    throw new UnpackError('INVALID_JOB', `the payload is wrong: ${problemSentence(parsed.error, data)}`);
  return parsed.data;
}

/**
 * A payload as a request, with the worker's own connection.
 * @throws UnpackError INVALID_JOB, or SOURCE_NOT_ALLOWED for a bucket that this worker does not serve
 */
export function parsePayload(data: unknown, policy: SourcePolicy): ParsedJob {
  const payload = checkPayload(data);
  const { bucket } = payload.source;
  if (policy.buckets.length > 0 && !policy.buckets.includes(bucket)) {
    throw new UnpackError(
      'SOURCE_NOT_ALLOWED',
      `bucket ${JSON.stringify(bucket)} is not one that this worker reads from (${policy.buckets.join(', ')}); UNPACK_BUCKETS lists them`,
    );
  }
  return {
    image: payload.image,
    source: {
      kind: 's3',
      bucket,
      prefix: trimSlashes(payload.source.prefix ?? ''),
      layout: layoutOf(payload),
      connection: policy.connection,
    },
    request: {
      target: targetOf(payload),
      ...(payload.platforms === undefined
        ? {}
        : { platforms: payload.platforms === 'all' ? 'all' : payload.platforms.map(parsePlatform) }),
    },
    labels: payload.labels ?? {},
  };
}

/** Payloads that are remembered. */
const MOST_PARSED = 1000;
/** Characters of JSON of one that is. */
const LONGEST_PARSED = 16 * 1024;

/**
 * `parsePayload` for one policy. The same payload gives the same objects, so that what is known of them need not be worked
 * out again; and checking one takes longer than knowing it again.
 */
export function payloadParser(policy: SourcePolicy): (data: unknown) => ParsedJob {
  /** By their JSON. */
  const parsed = new LruCache<ParsedJob>(MOST_PARSED);
  return (data) => {
    const json = JSON.stringify(data);
    const known = parsed.get(json);
    if (known !== undefined) return known;
    const job = parsePayload(data, policy);
    if (json.length <= LONGEST_PARSED) parsed.add(json, job);
    return job;
  };
}

/** The image that a payload of any form claims to be about, for a log line; `undefined` where it says nothing. */
export function imageOf(data: unknown): string | undefined {
  const image: unknown = typeof data === 'object' && data !== null && 'image' in data ? data.image : undefined;
  return typeof image === 'string' && image.length <= 4096 ? image : undefined;
}

export function trimSlashes(prefix: string): string {
  return prefix.replace(/^\/+|\/+$/g, '');
}

function layoutOf({ source, image }: Payload): BucketLayout {
  if (source.layout === 'oci') return { kind: 'oci' };
  if (source.layout === 'keys') return { kind: 'keys', template: source.template ?? '' };
  const repository = source.repository ?? repositoryOf(image);
  return repository === undefined ? { kind: 'distribution' } : { kind: 'distribution', repository };
}

function targetOf({ manifest, tag, layers }: Payload): ImageTarget {
  if (manifest !== undefined) return { kind: 'manifest', digest: blobDigest(manifest) };
  if (tag !== undefined) return { kind: 'tag', tag };
  return {
    kind: 'layers',
    layers: (layers ?? []).map(
      ({ diff, blob }): Layer => ({
        diff: { digest: diffId(diff.digest) },
        blob: { mediaType: blob.mediaType, digest: blobDigest(blob.digest), size: blob.size },
      }),
    ),
  };
}
