import { abortError, throwIfAborted, UnpackError } from '../errors.ts';
import { type BlobDigest, isDigest } from '../oci/digest.ts';
import { findTag, type ImageIndex } from '../oci/image-index.ts';
import { DOCUMENT_LIMIT, parseIndex } from '../oci/manifest.ts';
import type { BlobSource, BlobStream, OpenOptions, TagTarget } from './blob-source.ts';
import { type BucketKeys, bucketKeys, checkedBucket } from './bucket-layout.ts';
import { openWhole } from './http-blob.ts';
import { S3Clients, sdk } from './s3-clients.ts';
import { movedError, type S3Request, s3Error, s3Location } from './s3-errors.ts';
import { watchSilence } from './silence.ts';
import { type Asking, SIGNED_FOR, SmallObjects } from './small-objects.ts';
import type { HttpRequestSpec, LentSpec, S3Connection, S3SourceSpec, SignatureRefusal } from './source-spec.ts';

export type { BucketLayout, S3Connection, S3SourceSpec } from './source-spec.ts';

/** Seconds; longer than most layers take. Credentials that end before end the permission too, and it is asked for anew. */
const LENT_FOR = 12 * 3600;

/** Bytes of an index that is kept: with hundreds of open sources they must stay small. */
const INDEX_KEPT = 16 * 1024;

/** A registry's link file holds a digest; the longest is 135 bytes. */
const LINK_LIMIT = 1024;

/**
 * The images in a bucket. Connections are kept for the next request until `close`, or as long as `shared` is open.
 * @param shared clients that other sources use too; default: its own
 * @throws UnpackError INVALID_JOB when bucket, prefix or layout can't be
 */
export function openS3Source(spec: S3SourceSpec, shared?: S3Clients): BlobSource {
  const clients = shared ?? new S3Clients();
  const bucket = checkedBucket(spec.bucket);
  const keys = bucketKeys(spec.layout, spec.prefix);
  const signer = new ObjectSigner(spec.connection, bucket, clients);
  const { maxResumes } = spec.connection;
  const asking: Asking = {
    sign: (key, refused) => signer.sign(key, { missing: 'IMAGE_NOT_FOUND', seconds: SIGNED_FOR, refused }),
    maxResumes,
  };
  const tags = new Tags(keys, new SmallObjects(asking));
  return {
    name: `s3://${bucket}${keys.prefix === '' ? '' : `/${keys.prefix.slice(0, -1)}`}`,
    maxResumes,
    open: async (digest, options) => openBlob(signer, keys.blob(digest), digest, options),
    lend: async ({ digest, size }, refused): Promise<LentSpec> => {
      const url = { missing: 'BLOB_NOT_FOUND', seconds: LENT_FOR, digest, refused } as const;
      return {
        kind: 'http-blob',
        name: `s3://${bucket}`,
        size,
        maxResumes,
        ...(await signer.sign(keys.blob(digest), url)),
      };
    },
    resolveTag: (tag, signal) => tags.resolve(tag, signal),
    close: () => (shared === undefined ? clients.close() : undefined),
  };
}

async function openBlob(
  signer: ObjectSigner,
  key: string,
  digest: BlobDigest,
  options: OpenOptions,
): Promise<BlobStream> {
  const { signal } = options;
  const sign = (refused?: SignatureRefusal) =>
    signer.sign(key, { missing: 'BLOB_NOT_FOUND', seconds: SIGNED_FOR, digest, signal, refused });
  return openWhole(await sign(), options, sign);
}

/** What a URL is signed for. */
interface Wanted {
  readonly missing: S3Request['missing'];
  /** That it holds. */
  readonly seconds: number;
  readonly digest?: BlobDigest | undefined;
  readonly signal?: AbortSignal | undefined;
  /** How the last one was refused. */
  readonly refused?: SignatureRefusal | undefined;
}

/** Signs URLs for the objects of a bucket. What refusals have taught it holds for all that come later. */
class ObjectSigner {
  readonly #connection: S3Connection;
  readonly #bucket: string;
  readonly #clients: S3Clients;
  /** Where the bucket is, as the server says. */
  #region: string | undefined;
  /** Milliseconds that the server's clock is ahead. */
  #clockOffset = 0;

  constructor(connection: S3Connection, bucket: string, clients: S3Clients) {
    this.#connection = connection;
    this.#bucket = bucket;
    this.#clients = clients;
  }

  /**
   * A URL signed for one object. It needs no request but those for credentials: what it names may not exist.
   * @throws UnpackError SOURCE_DENIED without credentials, or where no signature helps; SOURCE_UNAVAILABLE when
   *   credentials don't come within the idle timeout; what the signal's reason says
   */
  async sign(key: string, wanted: Wanted): Promise<HttpRequestSpec> {
    const { connectTimeout, idleTimeout, minimumSpeed, caBundle } = this.#connection;
    const { missing, digest, signal, refused } = wanted;
    const { endpoint, unusedProxy } = this.#connection;
    const request: S3Request = {
      bucket: this.#bucket,
      key,
      endpoint,
      missing,
      ...(digest === undefined ? {} : { digest }),
      ...(unusedProxy === undefined ? {} : { unusedProxy }),
    };
    const location = refused?.why === 'moved' ? this.#follow(refused, request) : undefined;
    const url = await this.#inTime(this.#url(key, wanted, location), request, signal);
    return {
      url,
      request,
      connectTimeout,
      idleTimeout,
      ...(minimumSpeed === undefined ? {} : { minimumSpeed }),
      ...(caBundle === undefined ? {} : { caBundle }),
    };
  }

  async #url(key: string, { seconds, refused }: Wanted, location: URL | undefined): Promise<string> {
    const { signedUrl, refreshCredentials } = await sdk();
    const region = this.#region ?? this.#connection.region;
    const client = await this.#clients.get({ ...this.#connection, region });
    if (refused?.why === 'denied') await refreshCredentials(client);
    if (refused?.date !== undefined) this.#clockOffset = refused.date - Date.now();
    return signedUrl(client, this.#bucket, key, { seconds, clockOffset: this.#clockOffset, location });
  }

  /**
   * Another region is signed for from now on. A redirection is followed to where this worker is meant to send its
   * signatures, and nowhere else.
   * @throws UnpackError that says where it leads
   */
  #follow(refused: SignatureRefusal, request: S3Request): URL | undefined {
    const { region, location } = refused;
    const isNewRegion = region !== undefined && region !== (this.#region ?? this.#connection.region);
    if (isNewRegion) this.#region = region;
    const to = location !== undefined && URL.canParse(location) ? new URL(location) : undefined;
    if (to !== undefined && this.#isOurs(to)) return to;
    // S3 redirects to the region's own name, which is what the SDK makes of the region
    if (isNewRegion) return undefined;
    throw movedError(request, refused);
  }

  #isOurs(to: URL): boolean {
    const { endpoint } = this.#connection;
    if (endpoint === undefined) return to.protocol === 'https:' && /\.amazonaws\.com(\.cn)?$/.test(to.hostname);
    const { protocol, hostname, port } = new URL(endpoint);
    const isSameHost = to.hostname === hostname || to.hostname.endsWith(`.${hostname}`);
    return to.protocol === protocol && to.port === port && isSameHost;
  }

  /** Stops at once on abort, and after the idle timeout: looking for credentials may take long. */
  async #inTime<T>(signing: Promise<T>, request: S3Request, signal: AbortSignal | undefined): Promise<T> {
    throwIfAborted(signal);
    const { idleTimeout } = this.#connection;
    const stopped = Promise.withResolvers<never>();
    const silence = watchSilence(idleTimeout, () => {
      const sentence = `${s3Location(request)}: credentials did not come within ${idleTimeout / 1000} s`;
      stopped.reject(new UnpackError('SOURCE_UNAVAILABLE', sentence));
    });
    const onAbort = () => {
      if (signal !== undefined) stopped.reject(abortError(signal));
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    silence.arm();
    try {
      return await Promise.race([signing, stopped.promise]);
    } catch (thrown) {
      throw thrown instanceof UnpackError ? thrown : s3Error(thrown, request);
    } finally {
      silence.disarm();
      signal?.removeEventListener('abort', onAbort);
    }
  }
}

/** What names the images of a bucket: an index, or a link file for each tag. */
class Tags {
  readonly #keys: BucketKeys;
  readonly #objects: SmallObjects;
  /** The index as it was last read, and what it says: checking it takes longer than reading it. */
  #index: { readonly bytes: Buffer; readonly parsed: ImageIndex } | undefined;

  constructor(keys: BucketKeys, objects: SmallObjects) {
    this.#keys = keys;
    this.#objects = objects;
  }

  async resolve(tag: string, signal: AbortSignal | undefined): Promise<TagTarget> {
    const { layout } = this.#keys;
    if (layout.kind === 'oci') {
      const key = this.#keys.file('index.json');
      const index = await this.#objects.read(key, DOCUMENT_LIMIT, (bytes) => this.#parsed(bytes, key), signal);
      return findTag(index, tag, key);
    }
    if (layout.kind === 'distribution') {
      const key = this.#keys.tagLink(tag);
      return this.#objects.read(key, LINK_LIMIT, (bytes) => parseLink(bytes, key), signal);
    }
    throw new UnpackError('INVALID_JOB', 'the layout "keys" has no tags: name the manifest by its digest');
  }

  #parsed(bytes: Buffer, key: string): ImageIndex {
    if (this.#index?.bytes.equals(bytes)) return this.#index.parsed;
    const parsed = parseIndex(bytes, key);
    if (bytes.length <= INDEX_KEPT) this.#index = { bytes, parsed };
    return parsed;
  }
}

/** @throws UnpackError MANIFEST_INVALID */
function parseLink(bytes: Buffer, key: string): TagTarget {
  const text = bytes.toString('latin1').trim();
  if (isDigest(text)) return { digest: text as BlobDigest }; // a registry's link names a stored manifest
  throw new UnpackError('MANIFEST_INVALID', `${key} should hold a digest and holds ${JSON.stringify(text)}`);
}
