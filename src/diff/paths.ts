/** Paths in archives: bytes, not text, with `/` between names. */

export const SLASH = 0x2f;
export const DOT_DOT = Buffer.from('..');

/** The parts of a path, without empty ones and `.`. */
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

/** The same result as Go's filepath.Clean, made relative: no empty parts, no `.`, and no `..`, which stops at the root. */
export function cleanPath(path: Buffer): Buffer {
  if (isClean(path)) return path.at(-1) === SLASH ? path.subarray(0, -1) : path;
  const clean: Buffer[] = [];
  for (const part of components(path)) {
    if (!part.equals(DOT_DOT)) clean.push(part);
    else if (clean.length > 0) clean.pop();
  }
  return joinPath(clean);
}

/** Most paths are already clean, and checking each byte is much faster than splitting the path. */
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

/** Splits a clean path into the path of its parent directory and its last name. */
export function splitPath(path: Buffer): { parent: Buffer; name: Buffer } {
  const slash = path.lastIndexOf(SLASH);
  return slash < 0
    ? { parent: path.subarray(0, 0), name: path }
    : { parent: path.subarray(0, slash), name: path.subarray(slash + 1) };
}
