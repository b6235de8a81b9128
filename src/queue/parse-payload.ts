import { UnpackError } from '../errors.ts';
import type { ImageTarget } from '../image/request.ts';
import type { WantedImage } from '../image/unpack.ts';
import { LruCache } from '../lru-cache.ts';
import type { Layer } from '../oci/descriptor.ts';
import { blobDigest, diffId } from '../oci/digest.ts';
import { parsePlatform } from '../oci/platform.ts';
import { repositoryOf } from '../oci/reference.ts';
import { connectionFor, type S3Connections } from '../source/bucket-endpoints.ts';
import type { BucketLayout } from '../source/source-spec.ts';
import { checkPayload } from './check-payload.ts';
import type { Payload } from './formats.ts';

/** A payload converted to what the worker needs. */
export interface ParsedJob extends WantedImage {
  readonly labels: Readonly<Record<string, string>>;
}

/** The settings of the worker that apply to every job. */
export interface SourcePolicy extends S3Connections {
  /** Buckets that jobs are allowed to read; empty: all. */
  readonly buckets: readonly string[];
}

/**
 * Converts a payload to a request, with the worker's own connection to S3.
 * @throws UnpackError INVALID_JOB, or SOURCE_NOT_ALLOWED for a bucket that is not in UNPACK_BUCKETS
 */
export function parsePayload(data: unknown, policy: SourcePolicy): ParsedJob {
  const payload = checkPayload(data);
  const { bucket } = payload.source;
  if (policy.buckets.length > 0 && !policy.buckets.includes(bucket)) {
    throw new UnpackError(
      'SOURCE_NOT_ALLOWED',
      `this worker is not allowed to read bucket ${JSON.stringify(bucket)}, only ${policy.buckets.join(', ')}: add it to UNPACK_BUCKETS, or use another bucket`,
    );
  }
  return {
    image: payload.image,
    source: {
      kind: 's3',
      bucket,
      prefix: trimSlashes(payload.source.prefix ?? ''),
      layout: layoutOf(payload),
      connection: connectionFor(policy, bucket),
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

/** Maximum number of payloads in the cache. */
const MAX_CACHED = 1000;
/** Maximum length of a cached payload: characters of its JSON. */
const MAX_CACHED_LENGTH = 16 * 1024;

/**
 * `parsePayload` for one policy, with a cache. A lookup is faster than checking a payload again. Equal payloads give the same
 * object, so other caches can use it as a key.
 */
export function payloadParser(policy: SourcePolicy): (data: unknown) => ParsedJob {
  /** Parsed payloads, with their JSON as key. */
  const parsed = new LruCache<ParsedJob>(MAX_CACHED);
  return (data) => {
    const json = JSON.stringify(data);
    const known = parsed.get(json);
    if (known !== undefined) return known;
    const job = parsePayload(data, policy);
    if (json.length <= MAX_CACHED_LENGTH) parsed.add(json, job);
    return job;
  };
}

/** The image name in any payload, valid or not, for log lines; `undefined` if there is none. */
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
