import { LruCache } from '../lru-cache.ts';
import type { BlobSource } from './blob-source.ts';
import { openOciLayout } from './oci-layout.ts';
import { openS3Source } from './s3.ts';
import { S3Clients } from './s3-clients.ts';
import type { SourceSpec } from './source-spec.ts';

/** Sources remembered: a registry's bucket is one for each of its repositories. Each costs some kilobytes. */
const MOST_OPEN = 500;

/** Sources that stay open between jobs, so that the next one finds connections and credentials ready. */
export class OpenSources {
  private readonly sources = new LruCache<BlobSource>(MOST_OPEN);
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
    // who still reads from one that is forgotten goes on: all it has to close is shared
    this.sources.add(key, source);
    return source;
  }
}

/**
 * The source that a specification describes. Nothing is contacted before the first read; the caller closes it.
 * @param shared clients for buckets that outlive the source; default: its own
 * @throws UnpackError INVALID_JOB
 */
export function openSource(spec: SourceSpec, shared?: S3Clients): BlobSource {
  return spec.kind === 's3' ? openS3Source(spec, shared) : openOciLayout(spec);
}
