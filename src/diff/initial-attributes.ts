import type { TarEntry } from '../archive/entry.ts';
import { cString } from '../system/files.ts';
import { HAS_NOTHING, type Has } from './attributes.ts';
import type { Creator, LayerTree } from './layer-tree.ts';
import type { Root } from './root.ts';

const S_ISGID = 0o2000;
const DEFAULT_ACL = cString('system.posix_acl_default');

/**
 * Predicts the owner and the mode that the kernel gives a new file, so that `LayerWriter` skips calls that would change
 * nothing. In most layers most calls can be skipped: root writes files of root, with modes that the umask does not
 * change.
 *
 * A new file belongs to the user and the group that create it. If its directory has the setgid bit, or the mount option
 * `grpid` is set (mount(8)), it gets the group of the directory. Its mode is the given mode without the bits of the umask;
 * a directory inherits the setgid bit of its parent directory. A default ACL of the parent directory replaces the umask
 * (acl(5), "OBJECT CREATION AND DEFAULT ACLs").
 */
export class InitialAttributes {
  private readonly root: Root;
  private readonly tree: LayerTree;
  private readonly creator: Creator;

  /**
   * A new file belongs to the user that creates it, like the root directory. Some file systems use another owner (NFS
   * with all_squash, mount option `uid=`). There chown is always called, so that its error fails the layer.
   */
  private readonly keepsCreator: boolean;

  /** The directory that the next three fields describe. Its descriptor is valid until `root.evictions` changes. */
  private parent = -1;
  private evictions = -1;
  private sameGroup = false;
  private setgid = false;
  private defaultAcl = false;

  constructor(root: Root) {
    this.root = root;
    this.tree = root.tree;
    this.creator = root.tree.creator;
    this.keepsCreator = this.tree.statFd(this.tree.root).uid === this.creator.uid;
  }

  /** Call it after a possible change of the owner, mode or attributes of a directory. */
  directoryChanged(): void {
    this.parent = -1;
  }

  /** @returns which attributes of the entry a new file in `parent` has when it is created with the entry's permission bits */
  has(
    parent: number,
    { type, uid, gid, mode, xattrs }: Pick<TarEntry, 'type' | 'uid' | 'gid' | 'mode' | 'xattrs'>,
  ): Has {
    const { creator } = this;
    const owner = this.keepsCreator && uid === creator.uid && gid === creator.gid;
    // an ACL among the extended attributes changes the mode
    const plain = (mode & (creator.umask | ~0o777)) === 0 && xattrs === undefined;
    if (!owner && !plain) return HAS_NOTHING;
    this.look(parent);
    const inherits = this.defaultAcl || (this.setgid && type === 'directory');
    return { owner: owner && this.sameGroup, mode: plain && !inherits };
  }

  private look(parent: number): void {
    if (parent === this.parent && this.evictions === this.root.evictions) return;
    const { gid, mode } = this.tree.statFd(parent);
    this.sameGroup = gid === this.creator.gid;
    this.setgid = (mode & S_ISGID) !== 0;
    this.defaultAcl = this.tree.hasXattr(parent, DEFAULT_ACL);
    this.parent = parent;
    this.evictions = this.root.evictions;
  }
}
