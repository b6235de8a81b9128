import { existsSync, readdirSync, type Stats, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { UnpackError } from '../errors.ts';
import type { ImageTarget } from '../image/request.ts';
import { blobDigest, isDigest } from '../oci/digest.ts';
import { hostOf, isReference } from '../oci/reference.ts';
import { CliError } from './failure.ts';

/** Where an image is and which it is, as the command line names it. */
export interface ImageArgument {
  readonly place:
    | { readonly kind: 's3'; readonly bucket: string; readonly prefix: string }
    | { readonly kind: 'folder'; readonly path: string };
  /** Absent where the argument names only a place. */
  readonly target?: Exclude<ImageTarget, { readonly kind: 'layers' }>;
}

/**
 * Reads `PATH`, `PATH:NAME` or `PATH@DIGEST`. Paths and names may have colons of their own (`app:v1/`,
 * `registry.example.com/team/app:latest`), so that what is there decides: the longest path that exists.
 * @throws CliError USAGE
 */
export function parseLocalArgument(text: string): ImageArgument {
  if (text === '') throw new CliError('USAGE', `there is no folder in ${JSON.stringify(text)}: write PATH:TAG`);
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
  if (path === '') throw new CliError('USAGE', `there is no folder in ${JSON.stringify(whole)}: write PATH:TAG`);
  if (rest.startsWith('@')) {
    if (!isDigest(name)) {
      throw new CliError(
        'USAGE',
        `${JSON.stringify(name)} in ${JSON.stringify(whole)} is not a digest: write @sha256:…`,
      );
    }
    return { place: folder(path), target: { kind: 'manifest', digest: blobDigest(name) } };
  }
  if (name === '') throw new CliError('USAGE', `there is no tag after the colon of ${JSON.stringify(whole)}`);
  return { place: folder(path), target: { kind: 'tag', tag: name } };
}

const folder = (path: string): ImageArgument['place'] => ({ kind: 'folder', path: resolve(path) });

/**
 * What to do about an image that is named as in a registry, where no such path is there; `undefined` for what is no
 * such name, or names a path by its form.
 */
export function registryAdvice(text: string): string | undefined {
  if (!isReference(text)) return undefined;
  // without host, tag and digest it is more likely a path
  if (hostOf(text) === undefined && !/[:@]/.test(text)) return undefined;
  const short = /([^/:@]+)(:[^/@]*)?(@.*)?$/.exec(text);
  const tag = short?.[2] ?? ':latest';
  const layout = `${short?.[1] ?? 'image'}${tag}`;
  return `${JSON.stringify(text)} is the name of an image in a registry, and unpackd reads buckets and OCI layouts: copy it first (skopeo copy --all docker://${text} oci:${layout}), then unpackd apply ${layout}, or unpackd push ${layout} s3://BUCKET/PREFIX${tag}`;
}

/**
 * Says what `path` is instead, if it is no folder with an OCI layout.
 * @param text the whole argument
 * @throws CliError USAGE for what can't be one, UnpackError IMAGE_NOT_FOUND, SOURCE_DENIED
 */
export function requireLayout(path: string, text: string): void {
  let found: Stats;
  try {
    found = statSync(path);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENOTDIR') {
      throw new UnpackError('SOURCE_DENIED', `${path} can't be looked at: ${message}`, { cause });
    }
    const registry = registryAdvice(text);
    if (registry !== undefined) throw new CliError('USAGE', registry, { cause });
    throw new UnpackError(
      'IMAGE_NOT_FOUND',
      `there is no ${path}: an image is a folder with an OCI layout, or in a bucket (s3://…)`,
      { cause },
    );
  }
  if (found.isFile()) {
    throw new CliError(
      'USAGE',
      `${path} is a file, and images are applied from buckets and folders with an OCI layout: push it to a bucket (unpackd push ${text} s3://BUCKET/PREFIX:TAG), or make a layout of it (skopeo copy docker-archive:FILE oci:FOLDER:TAG; oci-archive: for the tar of a layout)`,
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
    throw new UnpackError('SOURCE_DENIED', `${path} can't be read: ${(cause as Error).message}`, { cause });
  }
  if (names.length === 0)
    return 'is an empty folder, no OCI layout: is its file system not mounted, or the copy not done?';
  if (names.includes('manifest.json')) {
    return 'is no OCI layout, but what docker save writes, unpacked: push it to a bucket (unpackd push) and apply it from there';
  }
  if (names.includes('metadata.db') && names.includes('snapshots')) return 'is a snapshot store, no OCI layout';
  const inside = names.filter((name) => existsSync(join(path, name, 'index.json')));
  if (inside.length > 0) return `is no OCI layout (it has no index.json); its folder ${inside[0]} is one`;
  return 'is no OCI layout: it has no index.json';
}
