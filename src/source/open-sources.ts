import { LruCache } from '../lru-cache.ts';
import type { BlobSource } from './blob-source.ts';
import { openOciLayout } from './oci-layout.ts';
import { openS3Source } from './s3.ts';
import { S3Clients } from './s3-clients.ts';
import type { SourceSpec } from './source-spec.ts';

/** Maximum number of open sources. Each repository of a registry's bucket is one source, and needs some kilobytes. */
const MAX_OPEN = 500;

/** Sources that stay open between jobs, so that connections and credentials are reused. The unpacker owns them. */
export class OpenSources {
  private readonly sources = new LruCache<BlobSource>(MAX_OPEN);
  private readonly bySpec = new WeakMap<SourceSpec, BlobSource>();
  private readonly clients = new S3Clients();

  /** @throws UnpackError INVALID_JOB */
  get(spec: SourceSpec): BlobSource {
    const known = this.bySpec.get(spec);
    if (known !== undefined) return known;
    const source = this.open(spec);
    this.bySpec.set(spec, source);
    return source;
  }

  close(): void {
    this.sources.clear();
    this.clients.close();
  }

  private open(spec: SourceSpec): BlobSource {
    const key = JSON.stringify(spec);
    const source = this.sources.get(key) ?? openSource(spec, this.clients);
    // evicting a source that is in use is safe, because the clients are shared
    this.sources.add(key, source);
    return source;
  }
}

/**
 * Opens a source. It sends no request before the first read. The caller closes it.
 * @param shared clients for buckets that live longer than the source. Default: new clients, which the source closes
 * @throws UnpackError INVALID_JOB
 */
export function openSource(spec: SourceSpec, shared?: S3Clients): BlobSource {
  return spec.kind === 's3' ? openS3Source(spec, shared) : openOciLayout(spec);
}
