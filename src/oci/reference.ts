/**
 * The grammar of image references: `[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]` (distribution/reference, reference.go). Payloads,
 * bucket layouts and the command line check names with it.
 */

/** A repository, such as `library/alpine`. */
export const REPOSITORY = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
export const MAX_REPOSITORY = 255;

/** A tag in a registry. */
export const TAG = /^\w[\w.-]{0,127}$/;

const REFERENCE =
  /^([a-zA-Z0-9][a-zA-Z0-9.-]*(:\d+)?\/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127})?(@[a-z0-9]+:[0-9a-f]+)?$/;

/** Whether a text can be a reference, with a host or without. */
export function isReference(text: string): boolean {
  return REFERENCE.test(text);
}

/** The registry host of a reference: the part before the first slash, if it has a dot or a colon or is `localhost`. */
export function hostOf(reference: string): string | undefined {
  const slash = reference.indexOf('/');
  const first = slash === -1 ? '' : reference.slice(0, slash);
  return first === 'localhost' || /[.:]/.test(first) ? first : undefined;
}

/**
 * The repository of a reference, as a mirror stores it: without host, tag and digest. A single name on Docker Hub is in
 * `library` (distribution/reference, normalize.go).
 * @returns `undefined` if the reference has no valid repository
 */
export function repositoryOf(reference: string): string | undefined {
  const name = reference.replace(/@.*$/, '').replace(/:[^/:]*$/, '');
  const host = hostOf(name);
  const path = host === undefined ? name : name.slice(host.length + 1);
  const onHub = host === undefined || host === 'docker.io';
  const repository = onHub && !path.includes('/') ? `library/${path}` : path;
  return REPOSITORY.test(repository) ? repository : undefined;
}
