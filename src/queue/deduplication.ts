import { createHash } from 'node:crypto';
import { trimSlashes } from './parse-payload.ts';
import type { Payload } from './payload-schema.ts';

/**
 * The text that stands for what a job unpacks: lines joined by "\n", no newline at the end. docs/producers.md
 * documents it for producers in other languages; a change of it is a new version on its first line.
 *
 *     unpackd/1
 *     BUCKET
 *     PREFIX                     without slashes at its ends; empty for none
 *     LAYOUT                     oci, "distribution REPOSITORY" or "keys TEMPLATE"; REPOSITORY as given, or absent
 *     TARGET                     "manifest DIGEST", "tag TAG", or "layers" and then " DIFFID=BLOB" for each
 *     PLATFORMS                  default, all, or the given ones sorted and joined by ","
 *
 * `image` and `labels` are left out: they do not change what is unpacked. `image` takes part only where the repository
 * is derived from it, and then as it is written.
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
  // only a tag is looked up in a repository
  if (tag === undefined) return 'distribution';
  return `distribution ${source.repository ?? image}`;
}

function targetText({ manifest, tag, layers }: Payload): string {
  if (manifest !== undefined) return `manifest ${manifest}`;
  if (tag !== undefined) return `tag ${tag}`;
  return ['layers', ...(layers ?? []).map(({ diff, blob }) => `${diff.digest}=${blob.digest}`)].join(' ');
}
