import type { TarEntry } from '../archive/entry.ts';
import { cString, hasXattrOfPathFd, statFd } from '../system/files.ts';
import { HAS_NOTHING, type Has } from './attributes.ts';
import type { Root } from './root.ts';

const S_ISGID = 0o2000;
const DEFAULT_ACL = cString('system.posix_acl_default');

/**
 * What the kernel gives a new file or directory by itself, so that calls which would change nothing are left out: most
 * layers hold root's files with modes that no umask touches, and are written by root.
 *
 * A new node belongs to the user and the group that make it; to the group of its directory where that is setgid, or
 * mounted so (mount(8), `grpid`). Its mode is the one asked for without the umask's bits, a directory's with the setgid
 * bit of the one above; a default ACL of that takes the umask's place (acl(5), "OBJECT CREATION AND DEFAULT ACLs").
 */
export class InitialAttributes {
  private readonly root: Root;
  private readonly uid = process.geteuid?.() ?? -1;
  private readonly gid = process.getegid?.() ?? -1;
  private readonly umask = process.umask();

  /**
   * What this user makes there belongs to it, as the root did when it was made. A file system may give it to another (NFS
   * with all_squash, a mount with `uid=`): the calls that are not left out fail there, and must.
   */
  private readonly keepsMaker: boolean;

  /** The directory that the facts below are of; its descriptor's number stands for it as long as `root` drops none. */
  private parent = -1;
  private drops = -1;
  private sameGroup = false;
  private setgid = false;
  private defaultAcl = false;

  constructor(root: Root) {
    this.root = root;
    this.keepsMaker = statFd(root.fd).uid === this.uid;
  }

  /** A directory's owner, mode or attributes may have changed. */
  directoryChanged(): void {
    this.parent = -1;
  }

  /** What a file, directory or link in `parent` has that was, or is to be, made with the entry's permission bits. */
  has(
    parent: number,
    { type, uid, gid, mode, xattrs }: Pick<TarEntry, 'type' | 'uid' | 'gid' | 'mode' | 'xattrs'>,
  ): Has {
    const owner = this.keepsMaker && uid === this.uid && gid === this.gid;
    // an ACL among the attributes changes the mode
    const plain = (mode & (this.umask | ~0o777)) === 0 && xattrs === undefined;
    if (!owner && !plain) return HAS_NOTHING;
    this.look(parent);
    const inherits = this.defaultAcl || (this.setgid && type === 'directory');
    return { owner: owner && this.sameGroup, mode: plain && !inherits };
  }

  private look(parent: number): void {
    if (parent === this.parent && this.drops === this.root.drops) return;
    const { gid, mode } = statFd(parent);
    this.sameGroup = gid === this.gid;
    this.setgid = (mode & S_ISGID) !== 0;
    this.defaultAcl = hasXattrOfPathFd(parent, DEFAULT_ACL);
    this.parent = parent;
    this.drops = this.root.drops;
  }
}
