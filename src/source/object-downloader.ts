import { HttpClient, type HttpRequest } from '../http/client.ts';
import { WINDOW } from '../http/connection-plan.ts';
import { serverOf } from '../http/proxy.ts';
import { SEGMENT_BUFFER } from '../http/segment.ts';
import { authorizationOf } from '../http/tunnel.ts';
import { SpareBuffers } from '../system/spare-buffers.ts';
import type { BlobStream, OpenOptions } from './blob-source.ts';
import { type ObjectRequest, type ObjectTransport, type RenewUrl, SignedObject } from './signed-object.ts';
import type { SignedUrl, UrlGrant } from './source-spec.ts';

/**
 * If ranges brought no gain, none are requested from the bucket for this number of milliseconds. The other constant is
 * the maximum number of such buckets.
 */
const NO_GAIN_FOR = 10 * 60_000;
const NO_GAIN_KEPT = 1000;

/**
 * Downloads objects by signed URLs, for the main thread (S3Clients) or for an apply thread (GrantedBlobs). It owns what their
 * downloads share: connections, buffers, and which buckets bring no gain with ranges.
 *
 * It does not use the AWS SDK, which takes a thread half a second and 40 MB before the first byte; other clients take three
 * times the work (measured, docs/decisions.md).
 */
export class ObjectDownloader {
  readonly #client = new HttpClient();
  readonly #buffers = new SpareBuffers(SEGMENT_BUFFER);
  /** For each bucket, the time in `performance.now()` until which no ranges are requested. */
  readonly #noGain = new Map<string, number>();
  /**
   * Requests for whole objects. They are cached, because the file of a tag is requested again and again with the same
   * URL.
   */
  readonly #wholeRequests = new WeakMap<SignedUrl, HttpRequest>();
  readonly #transport: ObjectTransport = {
    buffers: this.#buffers,
    get: (request, handler) => this.#client.get(this.#httpRequest(request), handler),
    bringsGain: (bucket) => (this.#noGain.get(bucket) ?? 0) <= performance.now(),
    noGain: (bucket) => {
      if (this.#noGain.size >= NO_GAIN_KEPT) this.#noGain.clear();
      this.#noGain.set(bucket, performance.now() + NO_GAIN_FOR);
    },
  };

  /** Reads a whole object of unknown size with one request. @throws UnpackError as `BlobSource.open` */
  read(url: SignedUrl, options: OpenOptions, renew?: RenewUrl): Promise<BlobStream> {
    return new SignedObject(this.#transport, url, { size: undefined, window: () => WINDOW, renew }).open(options);
  }

  /**
   * An object that is read by one request or by ranges. A chunk is valid until the next one is requested.
   * @param window returns the present maximum memory in bytes
   */
  object(grant: UrlGrant, window: () => number = () => WINDOW, renew?: RenewUrl): SignedObject {
    return new SignedObject(this.#transport, grant, { size: grant.size, window, renew });
  }

  /** Closes idle connections. Running downloads continue. */
  close(): void {
    this.#client.close();
  }

  #httpRequest({ url, range, etag }: ObjectRequest): HttpRequest {
    if (range !== undefined || etag !== undefined) return httpRequest(url, range, etag);
    const known = this.#wholeRequests.get(url) ?? httpRequest(url, undefined, undefined);
    this.#wholeRequests.set(url, known);
    return known;
  }
}

function httpRequest(signed: SignedUrl, range: string | undefined, etag: string | undefined): HttpRequest {
  const url = new URL(signed.url);
  const secure = url.protocol === 'https:';
  const { proxy } = signed;
  // a proxy without a tunnel gets the whole URL
  const proxied = proxy !== undefined && !secure;
  const lines = [
    `GET ${proxied ? url.origin : ''}${url.pathname}${url.search} HTTP/1.1`,
    `Host: ${url.host}`,
    'Connection: keep-alive',
    ...(proxied ? authorizationOf(proxy) : []),
    ...(range === undefined ? [] : [`Range: bytes=${range}`]),
    ...(etag === undefined ? [] : [`If-Match: ${etag}`]),
  ];
  return {
    origin: { ...serverOf(url), caBundle: signed.caBundle, proxy },
    head: `${lines.join('\r\n')}\r\n\r\n`,
    connectTimeout: signed.connectTimeout,
  };
}
