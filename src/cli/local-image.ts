import { existsSync, readdirSync, type Stats, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { isMissing } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import type { ImageTarget } from '../image/request.ts';
import { blobDigest, isDigest } from '../oci/digest.ts';
import { hostOf, isReference } from '../oci/reference.ts';
import { CliError } from './explain-error.ts';

/** Images in local folders, as arguments of `apply`, `enqueue` and `push`. */

/** The image in an argument of the command line: its place, and its tag or digest. */
export interface ImageArgument {
  readonly place:
    | { readonly kind: 's3'; readonly bucket: string; readonly prefix: string }
    | { readonly kind: 'folder'; readonly path: string };
  /** Absent if the argument has only the place. */
  readonly target?: Exclude<ImageTarget, { readonly kind: 'layers' }>;
}

/**
 * Reads `PATH`, `PATH:NAME` or `PATH@DIGEST`. Paths and names can contain colons (`app:v1/`,
 * `registry.example.com/team/app:latest`), so the longest prefix that exists as a path is taken as the path.
 * @throws CliError USAGE
 */
export function parseLocalArgument(text: string): ImageArgument {
  if (text === '') throw new CliError('USAGE', `${JSON.stringify(text)} has no folder: write PATH:TAG`);
  if (existsSync(text)) return { place: folder(text) };
  for (let end = text.length - 1; end > 0; end -= 1) {
    const isMark = text[end] === ':' || text[end] === '@';
    if (isMark && existsSync(text.slice(0, end))) return withName(text.slice(0, end), text.slice(end), text);
  }
  const mark = /@[^@]*$|:[^:/]*$/.exec(text);
  if (mark === null) return { place: folder(text) };
  return withName(text.slice(0, mark.index), mark[0], text);
}

function withName(path: string, rest: string, whole: string): ImageArgument {
  const name = rest.slice(1);
  if (path === '') throw new CliError('USAGE', `${JSON.stringify(whole)} has no folder: write PATH:TAG`);
  if (rest.startsWith('@')) {
    if (!isDigest(name)) {
      throw new CliError(
        'USAGE',
        `${JSON.stringify(name)} in ${JSON.stringify(whole)} is not a digest: write @sha256:…`,
      );
    }
    return { place: folder(path), target: { kind: 'manifest', digest: blobDigest(name) } };
  }
  if (name === '') throw new CliError('USAGE', `${JSON.stringify(whole)} has no tag after the colon: write PATH:TAG`);
  return { place: folder(path), target: { kind: 'tag', tag: name } };
}

const folder = (path: string): ImageArgument['place'] => ({ kind: 'folder', path: resolve(path) });

/**
 * Advice for an argument that is not a path but the name of an image in a registry.
 * @returns `undefined` if the argument is not such a name, or could be a path
 */
export function registryAdvice(text: string): string | undefined {
  if (!isReference(text)) return undefined;
  // a name without host, tag and digest is more likely a path
  if (hostOf(text) === undefined && !/[:@]/.test(text)) return undefined;
  const short = /([^/:@]+)(:[^/@]*)?(@.*)?$/.exec(text);
  const tag = short?.[2] ?? ':latest';
  const layout = `${short?.[1] ?? 'image'}${tag}`;
  return `${JSON.stringify(text)} is an image in a registry, and unpackd reads only buckets and OCI layouts: copy it first (skopeo copy --all docker://${text} oci:${layout}), then unpackd apply ${layout}, or unpackd push ${layout} s3://BUCKET/PREFIX${tag}`;
}

/**
 * Checks that `path` is a folder with an OCI layout. Otherwise the message of the error has what the path is.
 * @param text the whole argument
 * @throws CliError USAGE if it cannot be a layout; UnpackError IMAGE_NOT_FOUND, SOURCE_DENIED
 */
export function requireLayout(path: string, text: string): void {
  let found: Stats;
  try {
    found = statSync(path);
  } catch (cause) {
    if (!isMissing(cause)) {
      const { message } = cause as Error; // a system error of stat
      throw new UnpackError('SOURCE_DENIED', `${path} cannot be accessed: ${message}`, { cause });
    }
    const registry = registryAdvice(text);
    if (registry !== undefined) throw new CliError('USAGE', registry, { cause });
    throw new UnpackError(
      'IMAGE_NOT_FOUND',
      `${path} does not exist: give a folder with an OCI layout, or s3://BUCKET/PREFIX:TAG`,
      { cause },
    );
  }
  if (found.isFile()) {
    throw new CliError(
      'USAGE',
      `${path} is a file, and unpackd applies images from buckets and from folders with an OCI layout: push it to a bucket (unpackd push ${text} s3://BUCKET/PREFIX:TAG), or convert it to a layout (skopeo copy docker-archive:FILE oci:FOLDER:TAG; oci-archive: for the tar of a layout)`,
    );
  }
  if (!found.isDirectory()) throw new CliError('USAGE', `${path} is neither a folder nor a file`);
  if (existsSync(join(path, 'index.json'))) return;
  throw new UnpackError('IMAGE_NOT_FOUND', `${path} ${insteadOfLayout(path)}`);
}

function insteadOfLayout(path: string): string {
  let names: string[];
  try {
    names = readdirSync(path);
  } catch (cause) {
    throw new UnpackError('SOURCE_DENIED', `${path} cannot be read: ${(cause as Error).message}`, { cause });
  }
  if (names.length === 0)
    return 'is an empty folder, not an OCI layout: check that its file system is mounted and that the copy is complete';
  if (names.includes('manifest.json')) {
    return 'is an unpacked archive of docker save, not an OCI layout: push it to a bucket (unpackd push) and apply it from there';
  }
  if (names.includes('metadata.db') && names.includes('snapshots')) return 'is a snapshot store, not an OCI layout';
  const inside = names.filter((name) => existsSync(join(path, name, 'index.json')));
  if (inside.length > 0) return `is not an OCI layout, because it has no index.json; its folder ${inside[0]} is one`;
  return 'is not an OCI layout, because it has no index.json';
}
