import { createHash } from 'node:crypto';
import type { Payload } from './formats.ts';
import { trimSlashes } from './parse-payload.ts';

/**
 * The text whose digest is the deduplication ID: what a job unpacks, as lines joined by "\n", without a newline at the end.
 * docs/producers.md documents it for producers in other languages. A change needs a new version on the first line.
 *
 *     unpackd/1
 *     BUCKET
 *     PREFIX                     without slashes at its ends; empty if there is none
 *     LAYOUT                     oci, "keys TEMPLATE", "distribution REPOSITORY" with a tag, else "distribution"
 *     TARGET                     "manifest DIGEST", "tag TAG", or "layers" followed by " DIFFID=BLOB" for each
 *     PLATFORMS                  default, all, or the given ones sorted and joined by ","
 *
 * `image` and `labels` are not part of it, because they do not change what is unpacked. Exception: if the payload has no
 * repository, `image` takes its place, as it is written.
 */
export function deduplicationText(payload: Payload): string {
  const { source, platforms } = payload;
  return [
    'unpackd/1',
    source.bucket,
    trimSlashes(source.prefix ?? ''),
    layoutText(payload),
    targetText(payload),
    platforms === undefined ? 'default' : platforms === 'all' ? 'all' : [...platforms].sort().join(','),
  ].join('\n');
}

/** `deduplication.id` of a job: lower-case hexadecimal SHA-256 of the UTF-8 text. */
export function deduplicationId(payload: Payload): string {
  return createHash('sha256').update(deduplicationText(payload)).digest('hex');
}

function layoutText({ source, image, tag }: Payload): string {
  if (source.layout === 'keys') return `keys ${source.template}`;
  if (source.layout === 'oci') return 'oci';
  // only a tag needs a repository
  if (tag === undefined) return 'distribution';
  return `distribution ${source.repository ?? image}`;
}

function targetText({ manifest, tag, layers }: Payload): string {
  if (manifest !== undefined) return `manifest ${manifest}`;
  if (tag !== undefined) return `tag ${tag}`;
  return ['layers', ...(layers ?? []).map(({ diff, blob }) => `${diff.digest}=${blob.digest}`)].join(' ');
}
