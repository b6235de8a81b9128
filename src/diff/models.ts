import { errnoOf } from '../errno.ts';
import { chmodAt, chownAt, cString, type FileStatus, setXattrAt, utimensAt, xattrsOfPathFd } from '../system/files.ts';
import { setFitting } from './attributes.ts';
import { OWNER_RIGHTS } from './directory-modes.ts';
import { leadsNowhere, Root } from './root.ts';

/** What a directory passes on to what is made in it (acl(5)). */
const DEFAULT_ACL = 'system.posix_acl_default';

/** Attributes that belong to a layer's own place in an overlay and are not copied from one to another. */
const NOT_COPIED = ['trusted.', 'user.overlay.'];

/**
 * The directories of the layers below, from which those that a layer needs and never names take their attributes, as
 * overlayfs would when it copies one up.
 */
export class Models implements Disposable {
  private readonly layers: readonly Root[];
  private readonly stack = new DisposableStack();

  /** @param lowers directories of the layers below, nearest first */
  constructor(lowers: readonly string[]) {
    try {
      this.layers = lowers.map((path) => this.stack.use(new Root(path)));
    } catch (error) {
      this.stack.dispose();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.stack.dispose();
  }

  /**
   * The directory at a real path in the nearest layer that has anything there; where owners are not kept, what lies in a
   * directory that even its owner can't enter is taken for missing.
   * @returns a path-only descriptor, good until some hundred more are asked for
   */
  find(path: Buffer): number | undefined {
    for (const layer of this.layers) {
      try {
        return layer.directory(path);
      } catch (error) {
        const errno = errnoOf(error);
        if (errno === 'ENOENT') continue;
        if (errno === 'EACCES' || leadsNowhere(error)) return undefined;
        throw error;
      }
    }
    return undefined;
  }
}

export interface CopyRules {
  /** A path on the file system that is written to. */
  readonly place: string;
  /** Extended attributes that are not copied. */
  readonly except: readonly string[];
  /** The owner stays, and has access until all is done. */
  readonly squash: boolean;
}

/**
 * Gives the directory `name` in `parent` the owner, mode and times of `status` and the extended attributes of `model`.
 * @returns whether the model has a default ACL
 */
export function copyAttributes(
  model: number,
  parent: number,
  name: Buffer,
  { uid, gid, mode, atime, mtime }: FileStatus,
  { place, except, squash }: CopyRules,
): boolean {
  if (!squash) chownAt(parent, name, uid, gid);
  const xattrs = squash ? readableXattrs(model) : xattrsOfPathFd(model);
  for (const [key, value] of xattrs) {
    if (except.includes(key) || NOT_COPIED.some((prefix) => key.startsWith(prefix))) continue;
    setFitting(place, key, value, () => setXattrAt(parent, name, cString(Buffer.from(key, 'latin1')), value));
  }
  chmodAt(parent, name, (mode & 0o7777) | (squash ? OWNER_RIGHTS : 0)); // an ACL among the attributes has changed it
  utimensAt(parent, name, atime, mtime);
  return xattrs.has(DEFAULT_ACL);
}

/** A directory that is closed to its owner doesn't tell an ordinary user what it carries. */
function readableXattrs(fd: number): Map<string, Buffer> {
  try {
    return xattrsOfPathFd(fd);
  } catch (error) {
    if (errnoOf(error) === 'EACCES') return new Map();
    throw error;
  }
}
