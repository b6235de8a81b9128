import { UnpackError } from '../errors.ts';
import { algorithmOf, type BlobDigest, hexOf } from '../oci/digest.ts';
import { MAX_REPOSITORY, REPOSITORY, TAG } from '../oci/reference.ts';
import type { BucketLayout } from './source-spec.ts';

/** S3's limit, in bytes of UTF-8. */
export const MAX_KEY_BYTES = 1024;
/**
 * A bucket's name: letters, digits, dots, dashes, and underscores, which old buckets and other servers have. Colons are
 * refused, because an ARN could refer to another region or account.
 */
export const BUCKET = /^[A-Za-z0-9](?!.*\.\.)[A-Za-z0-9._-]{0,253}[A-Za-z0-9]$/;
const REGISTRY_ROOT = 'docker/registry/v2';

/** The keys of a layout in a bucket, for sources and push. */
export interface BucketKeys {
  readonly layout: BucketLayout;
  /** Empty, or with a final slash. */
  readonly prefix: string;
  blob(digest: BlobDigest): string;
  /** A file below the prefix, for example `index.json`. */
  file(name: string): string;
  /** A registry's file with the digest of a tag. */
  tagLink(tag: string): string;
  /** A registry's file for each blob and manifest of a repository. */
  repositoryLink(kind: '_layers' | '_manifests/revisions', digest: BlobDigest): string;
  /** A registry's file for each digest that a tag has ever named. */
  tagHistoryLink(tag: string, digest: BlobDigest): string;
}

/**
 * The keys of a layout below a prefix. All text from a job is checked, because a proxy or server that resolves `..` in a path would
 * read another bucket with the worker's signature.
 * @throws UnpackError INVALID_JOB with the wrong part; the methods, too
 */
export function bucketKeys(layout: BucketLayout, prefix: string): BucketKeys {
  const root = normalizePrefix(prefix);
  if (layout.kind === 'keys') checkTemplate(layout.template);
  const repositoryFolder = () => {
    if (layout.kind !== 'distribution') throw invalid(`the layout "${layout.kind}" has no repositories`);
    return `${root}${REGISTRY_ROOT}/repositories/${checkedRepository(layout.repository)}`;
  };
  const tagFolder = (tag: string) => `${repositoryFolder()}/_manifests/tags/${checkedTag(tag)}`;
  return {
    layout,
    prefix: root,
    blob: (digest) => checkedKey(`${root}${blobPath(layout, digest)}`),
    file: (name) => checkedKey(`${root}${name}`),
    tagLink: (tag) => checkedKey(`${tagFolder(tag)}/current/link`),
    repositoryLink: (kind, digest) => checkedKey(`${repositoryFolder()}/${kind}/${digest.replace(':', '/')}/link`),
    tagHistoryLink: (tag, digest) => checkedKey(`${tagFolder(tag)}/index/${digest.replace(':', '/')}/link`),
  };
}

/** @throws UnpackError INVALID_JOB */
export function checkedBucket(bucket: string): string {
  if (!BUCKET.test(bucket)) throw invalid(`${JSON.stringify(bucket)} is not a bucket name`);
  return bucket;
}

/** @throws UnpackError INVALID_JOB */
export function checkedTag(tag: string): string {
  if (!TAG.test(tag)) {
    throw invalid(`${JSON.stringify(tag)} is not a tag: up to 128 letters, digits, "_", "." and "-"`);
  }
  return tag;
}

function blobPath(layout: BucketLayout, digest: BlobDigest): string {
  const algorithm = algorithmOf(digest);
  const hex = hexOf(digest);
  switch (layout.kind) {
    case 'oci':
      return `blobs/${algorithm}/${hex}`;
    case 'distribution':
      return `${REGISTRY_ROOT}/blobs/${algorithm}/${hex.slice(0, 2)}/${hex}/data`;
    case 'keys':
      return layout.template.replaceAll('{algorithm}', algorithm).replaceAll('{hex}', hex);
  }
}

function normalizePrefix(prefix: string): string {
  const trimmed = prefix.replace(/^\/+/, '').replace(/\/+$/, '');
  if (trimmed === '') return '';
  checkSegments('prefix', trimmed);
  return `${trimmed}/`;
}

function checkTemplate(template: string): void {
  if (!template.includes('{hex}')) {
    throw invalid(`the key template ${JSON.stringify(template)} lacks {hex}: every blob would have the same key`);
  }
  const other = /\{(?!algorithm\}|hex\})[^}]*\}?/.exec(template);
  if (other !== null)
    throw invalid(`the key template can contain only {algorithm} and {hex}, not ${JSON.stringify(other[0])}`);
  checkSegments('key template', template);
}

function checkSegments(what: string, path: string): void {
  const bad = path.split('/').find((segment) => segment === '' || segment === '.' || segment === '..');
  if (bad !== undefined) {
    throw invalid(`the ${what} ${JSON.stringify(path)} has ${bad === '' ? 'an empty part' : `a part "${bad}"`}`);
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are searched for
  if (/[\u0000-\u001f\u007f\\]/.test(path) || !path.isWellFormed()) {
    throw invalid(
      `the ${what} ${JSON.stringify(path)} has a backslash or another character that is not allowed in a key`,
    );
  }
}

function checkedRepository(repository: string | undefined): string {
  if (repository === undefined) throw invalid('a tag in the layout "distribution" needs the repository');
  if (!REPOSITORY.test(repository) || repository.length > MAX_REPOSITORY) {
    throw invalid(
      `${JSON.stringify(repository)} is not a repository name: write it in lower case, for example library/alpine`,
    );
  }
  return repository;
}

function checkedKey(key: string): string {
  const length = Buffer.byteLength(key);
  if (length > MAX_KEY_BYTES)
    throw invalid(`a key of ${length} bytes is longer than S3 allows (${MAX_KEY_BYTES}): ${key.slice(0, 80)}…`);
  return key;
}

const invalid = (sentence: string): UnpackError => new UnpackError('INVALID_JOB', sentence);
