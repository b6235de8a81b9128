import type { BlobSource } from './blob-source.ts';
import { openSource } from './open.ts';
import type { SourceSpec } from './source-spec.ts';

/** Sources kept open beyond their last use: a worker sees few, and each costs some idle connections. */
const MOST_OPEN = 8;

/** Sources that stay open between jobs, so that the next one finds connections and credentials ready. */
export class OpenSources {
  /** In the order of their last use. */
  private readonly sources = new Map<string, BlobSource>();

  /** @throws UnpackError INVALID_JOB */
  get(spec: SourceSpec): BlobSource {
    const key = JSON.stringify(spec);
    const source = this.sources.get(key) ?? openSource(spec);
    this.sources.delete(key);
    this.sources.set(key, source);
    for (const [oldest, unused] of this.sources) {
      if (this.sources.size <= MOST_OPEN) break;
      this.sources.delete(oldest);
      this.retire(unused);
    }
    return source;
  }

  close(): void {
    for (const source of this.sources.values()) source.close();
    this.sources.clear();
  }

  /** Closes a source that others may still be reading from: later than any of their waits for it can last. */
  private retire(source: BlobSource): void {
    setTimeout(() => source.close(), RETIREMENT).unref();
  }
}

/** Milliseconds. */
const RETIREMENT = 10 * 60_000;
