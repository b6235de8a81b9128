import type { BlobSource } from './blob-source.ts';
import { openSource } from './open.ts';
import { S3Clients } from './s3-clients.ts';
import type { SourceSpec } from './source-spec.ts';

/** Sources remembered: a registry's bucket is one for each of its repositories. Each costs some kilobytes. */
const MOST_OPEN = 500;

/** Sources that stay open between jobs, so that the next one finds connections and credentials ready. */
export class OpenSources {
  /** In the order of their last use. */
  private readonly sources = new Map<string, BlobSource>();
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
    this.sources.delete(key);
    this.sources.set(key, source);
    // who still reads from the oldest goes on: all it has to close is shared
    const [oldest] = this.sources.keys();
    if (this.sources.size > MOST_OPEN && oldest !== undefined) this.sources.delete(oldest);
    return source;
  }
}
