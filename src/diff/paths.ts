/** Paths of archives: bytes, not text, with `/` between names. */

export const SLASH = 0x2f;
export const DOT_DOT = Buffer.from('..');

/** The parts of a path that mean something. */
export function components(path: Buffer): Buffer[] {
  const parts: Buffer[] = [];
  let start = 0;
  for (let at = 0; at <= path.length; at++) {
    if (at < path.length && path[at] !== SLASH) continue;
    const part = path.subarray(start, at);
    if (part.length > 0 && !(part.length === 1 && part[0] === 0x2e)) parts.push(part);
    start = at + 1;
  }
  return parts;
}

/** A path as Go's filepath.Clean leaves it, made relative: no empty parts, no `.`, `..` only where nothing is left to go up. */
export function cleanPath(path: Buffer): Buffer {
  if (isClean(path)) return path.at(-1) === SLASH ? path.subarray(0, -1) : path;
  const clean: Buffer[] = [];
  for (const part of components(path)) {
    if (!part.equals(DOT_DOT)) clean.push(part);
    else if (clean.length > 0) clean.pop();
  }
  return joinPath(clean);
}

/** Most names are clean already; a look at each byte is much cheaper than taking them apart. */
function isClean(path: Buffer): boolean {
  let start = 0;
  for (let at = 0; at <= path.length; at++) {
    if (at < path.length && path[at] !== SLASH) continue;
    const length = at - start;
    if (length === 0 && at < path.length) return false;
    if (length === 0 && at === 0) return false;
    if (path[start] === 0x2e && (length === 1 || (length === 2 && path[start + 1] === 0x2e))) return false;
    start = at + 1;
  }
  return true;
}

export function joinPath(parts: readonly Buffer[]): Buffer {
  return Buffer.from(parts.map((part) => part.toString('latin1')).join('/'), 'latin1');
}

/** Parent and last name of a clean path. */
export function splitPath(path: Buffer): { parent: Buffer; name: Buffer } {
  const slash = path.lastIndexOf(SLASH);
  return slash < 0
    ? { parent: path.subarray(0, 0), name: path }
    : { parent: path.subarray(0, slash), name: path.subarray(slash + 1) };
}
