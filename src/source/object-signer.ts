import { abortError, throwIfAborted, UnpackError } from '../errors.ts';
import { proxyFor, serverOf } from '../http/proxy.ts';
import { idleTimer } from '../http/timeouts.ts';
import type { BlobDigest } from '../oci/digest.ts';
import { type S3Clients, sdk } from './s3-clients.ts';
import { movedError, type S3Request, s3Error, s3Location } from './s3-errors.ts';
import type { S3Connection, SignatureRefusal, SignedUrl } from './source-spec.ts';

export interface SigningOptions {
  readonly missing: S3Request['missing'];
  /** The lifetime of the URL. */
  readonly seconds: number;
  readonly digest?: BlobDigest | undefined;
  readonly signal?: AbortSignal | undefined;
  /** The refusal of the last URL by the server. */
  readonly refused?: SignatureRefusal | undefined;
}

/** A smaller difference of clocks in milliseconds is normal. S3 accepts 15 minutes. */
const CLOCK_TOLERANCE = 60_000;

/**
 * Signs URLs for the objects of a bucket, for an S3 source. If a server refuses a URL because of the wrong region or
 * time, all later URLs are signed with the right region and time.
 */
export class ObjectSigner {
  readonly #connection: S3Connection;
  readonly #bucket: string;
  readonly #clients: S3Clients;
  /** The region of the bucket, if an answer contained another region than the settings. */
  #region: string | undefined;
  /**
   * Difference in milliseconds between the clock of the server and the clock of this machine; positive if the server is
   * ahead.
   */
  #clockOffset = 0;

  constructor(connection: S3Connection, bucket: string, clients: S3Clients) {
    this.#connection = connection;
    this.#bucket = bucket;
    this.#clients = clients;
  }

  /**
   * Signs a URL for one object. Requests are sent only for credentials, so it does not matter whether the object
   * exists.
   * @throws UnpackError SOURCE_DENIED without credentials, or if no other signature can help; SOURCE_UNAVAILABLE if the
   *   credentials do not arrive within the idle timeout; the reason of the signal
   */
  async sign(key: string, options: SigningOptions): Promise<SignedUrl> {
    const { endpoint, settings, connectTimeout, idleTimeout, minimumSpeed, caBundle, proxies } = this.#connection;
    const { missing, digest, signal, refused } = options;
    const request: S3Request = {
      bucket: this.#bucket,
      key,
      endpoint,
      settings,
      missing,
      ...(digest === undefined ? {} : { digest }),
    };
    const location = refused?.why === 'moved' ? this.#follow(refused, request) : undefined;
    const url = await this.#withTimeout(this.#url(key, options, location), request, signal);
    const proxy = proxyFor(proxies, serverOf(new URL(url)));
    return { url, request: { ...request, proxy }, connectTimeout, idleTimeout, minimumSpeed, caBundle, proxy };
  }

  async #url(key: string, { seconds, refused }: SigningOptions, location: URL | undefined): Promise<string> {
    const { signedUrl, refreshCredentials } = await sdk();
    const region = this.#region ?? this.#connection.region;
    const client = await this.#clients.get({ ...this.#connection, region });
    if (refused?.why === 'denied') await refreshCredentials(client);
    if (refused?.date !== undefined) this.#correctClock(refused.date);
    const { requesterPays } = this.#connection;
    return signedUrl(client, this.#bucket, key, { seconds, clockOffset: this.#clockOffset, location, requesterPays });
  }

  /** Signs with the server's time from now on, and warns once. */
  #correctClock(date: number): void {
    const offset = date - Date.now();
    if (Math.abs(offset) > CLOCK_TOLERANCE && Math.abs(this.#clockOffset) <= CLOCK_TOLERANCE) {
      const difference = `${Math.round(Math.abs(offset) / 1000)} s ${offset > 0 ? 'behind' : 'ahead of'}`;
      process.emitWarning(
        `the clock of this machine is ${difference} the clock of S3 (s3://${this.#bucket}); requests are signed with the time of S3, but correct the clock`,
      );
    }
    this.#clockOffset = offset;
  }

  /**
   * Follows a server to another region, or to another URL of the configured endpoint. A signed request is never sent to another
   * host.
   * @returns the target of the redirection, which is signed instead of the object's own URL; `undefined` without a
   * redirection
   * @throws UnpackError with the target of a redirection that is not followed
   */
  #follow(refused: SignatureRefusal, request: S3Request): URL | undefined {
    const { region, location } = refused;
    const isNewRegion = region !== undefined && region !== (this.#region ?? this.#connection.region);
    if (isNewRegion) this.#region = region;
    const to = location !== undefined && URL.canParse(location) ? new URL(location) : undefined;
    if (to !== undefined && this.#isOurs(to)) return to;
    // S3 redirects to the host name of the region, which the SDK makes from the region
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

  /** Stops on abort, and after the idle timeout, because finding credentials can take a long time. */
  async #withTimeout<T>(signing: Promise<T>, request: S3Request, signal: AbortSignal | undefined): Promise<T> {
    throwIfAborted(signal);
    const { idleTimeout } = this.#connection;
    const stopped = Promise.withResolvers<never>();
    const idle = idleTimer(idleTimeout, () => {
      const sentence = `${s3Location(request)}: credentials did not arrive within ${idleTimeout / 1000} s`;
      stopped.reject(new UnpackError('SOURCE_UNAVAILABLE', sentence));
    });
    const onAbort = () => {
      if (signal !== undefined) stopped.reject(abortError(signal));
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    idle.start();
    try {
      return await Promise.race([signing, stopped.promise]);
    } catch (thrown) {
      throw thrown instanceof UnpackError ? thrown : s3Error(thrown, request);
    } finally {
      idle.stop();
      signal?.removeEventListener('abort', onAbort);
    }
  }
}
