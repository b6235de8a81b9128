import { abortError, throwIfAborted, UnpackError } from '../errors.ts';
import { watchSilence } from '../http/timeouts.ts';
import type { BlobDigest } from '../oci/digest.ts';
import { type S3Clients, sdk } from './s3-clients.ts';
import { movedError, type S3Request, s3Error, s3Location } from './s3-errors.ts';
import type { S3Connection, SignatureRefusal, SignedUrl } from './source-spec.ts';

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
export class ObjectSigner {
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
  async sign(key: string, wanted: Wanted): Promise<SignedUrl> {
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
