import { UnpackError } from '../errors.ts';
import { type Digest, isDigest } from './digest.ts';
import { MAX_REPOSITORY, REPOSITORY, TAG } from './reference.ts';

/**
 * Full names of images, as containerd's image records have them. The rules are those of distribution/reference
 * (`ParseDockerRef` in normalize.go), by which containerd's CRI service, ctr and nerdctl look images up. The store in containerd
 * records images under such names, and the queue and the command line check them.
 */

/** A full name: `HOST/REPOSITORY:TAG` or `HOST/REPOSITORY@DIGEST`. */
export interface ImageName {
  /** With the port: `docker.io`, `localhost:5000`, `[::1]:5000`. */
  readonly host: string;
  /** On Docker Hub with its first part: `library/alpine`. */
  readonly repository: string;
  readonly version: { readonly tag: string } | { readonly digest: Digest };
}

const HUB = 'docker.io';
/** The host of Docker Hub in old names. */
const OLD_HUB = 'index.docker.io';
const DEFAULT_TAG = 'latest';
/** Of DNS, with a port. The grammar has no limit. */
const MAX_HOST = 260;
/** Maximum characters of a wrong name in a message. */
const SHOWN = 300;
const LABEL = '(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])';
const HOST = new RegExp(`^(?:${LABEL}(?:\\.${LABEL})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?$`);
/** The ID of an image, which distribution refuses as a name. */
const HEX_ID = /^[a-f0-9]{64}$/;

/**
 * Reads a name as people write it: `alpine`, `registry.example.com/team/app:v1`, `app@sha256:…`. Host, `library/` and
 * `:latest` are added where they are missing. If there are a tag and a digest, only the digest counts.
 * @throws UnpackError INVALID_JOB with what to write
 */
export function parseImageName(text: string): ImageName {
  const name = read(text);
  if (typeof name !== 'string') return name;
  const example = similarName(text) ?? `HOST/REPOSITORY:TAG, such as ${HUB}/library/alpine:3.20`;
  throw new UnpackError('INVALID_JOB', `${quoted(text)} cannot be the name of an image: ${name}; write ${example}`);
}

/** As `parseImageName`; `undefined` if the text cannot be a name. */
export function findImageName(text: string): ImageName | undefined {
  const name = read(text);
  return typeof name === 'string' ? undefined : name;
}

/** The full name of what people write; `undefined` if it cannot be a name. */
export function fullNameOf(text: string): string | undefined {
  const name = findImageName(text);
  return name && formatImageName(name);
}

/** The full name as one text, as it stands in a record. */
export function formatImageName({ host, repository, version }: ImageName): string {
  return `${host}/${repository}${'tag' in version ? `:${version.tag}` : `@${version.digest}`}`;
}

/** The name, or what is wrong with it, as a clause. */
function read(text: string): ImageName | string {
  if (text === '') return 'it is empty';
  if (HEX_ID.test(text) || isDigest(text)) return 'it is a digest without a repository';
  const scheme = /^[a-z0-9+.-]+:\/\//i.exec(text)?.[0];
  if (scheme !== undefined) return `it begins with ${scheme}, as an address does`;
  const { host, rest } = split(text);
  if (host.length > MAX_HOST) return `its host is longer than ${MAX_HOST} characters`;
  if (!HOST.test(host)) return `${quoted(host)} is not a host`;
  const at = rest.indexOf('@');
  const undigested = at === -1 ? rest : rest.slice(0, at);
  const colon = undigested.indexOf(':');
  const repository = colon === -1 ? undigested : undigested.slice(0, colon);
  if (repository.length > MAX_REPOSITORY) return `its repository is longer than ${MAX_REPOSITORY} characters`;
  if (!REPOSITORY.test(repository)) {
    const lower = REPOSITORY.test(repository.toLowerCase()) ? ', because it has upper-case letters' : '';
    return `${quoted(repository)} is not a repository${lower}`;
  }
  const tag = colon === -1 ? undefined : undigested.slice(colon + 1);
  if (tag !== undefined && !TAG.test(tag)) return `${quoted(tag)} is not a tag`;
  if (at === -1) return { host, repository, version: { tag: tag ?? DEFAULT_TAG } };
  const digest = rest.slice(at + 1);
  if (!isDigest(digest)) return `${quoted(digest)} is not a digest`;
  return { host, repository, version: { digest } };
}

/** What is before the first slash is a host if it has a dot, a colon or an upper-case letter, or if it is `localhost`. */
function split(text: string): { readonly host: string; readonly rest: string } {
  const slash = text.indexOf('/');
  const first = slash === -1 ? '' : text.slice(0, slash);
  const isHost = first === 'localhost' || /[.:]/.test(first) || first !== first.toLowerCase();
  const host = !isHost || first === OLD_HUB ? HUB : first;
  const rest = isHost ? text.slice(slash + 1) : text;
  return { host, rest: host === HUB && !rest.includes('/') ? `library/${rest}` : rest };
}

/** The nearest name that is possible: without the scheme of a web address, and with the repository in lower case. */
function similarName(text: string): string | undefined {
  const bare = text.replace(/^(?:https?|docker|oci):\/\//i, '');
  const path = /^[^:@]*(?::\d+\/[^:@]*)?/.exec(bare)?.[0] ?? '';
  for (const candidate of [bare, path.toLowerCase() + bare.slice(path.length)]) {
    const name = candidate === text ? 'the same' : read(candidate);
    if (typeof name !== 'string') return formatImageName(name);
  }
  return undefined;
}

function quoted(text: string): string {
  return JSON.stringify(text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text);
}
