import { setImmediate as nextTurn } from 'node:timers/promises';
import { errnoOf } from '../errno.ts';
import { throwIfAborted } from '../errors.ts';
import { requireSameOwner } from '../snapshots/records.ts';
import { cString, type FileStatus } from '../system/files.ts';
import { setFitting } from './attributes.ts';
import { KernelTree } from './kernel-tree.ts';
import { type Checkpoint, NO_CHECKPOINT } from './layer-budget.ts';
import type { LayerTree } from './layer-tree.ts';
import { closeDirectories, type DirectoryMode, deniesOwner, OWNER_RIGHTS, openDirectories } from './ownership.ts';
import { splitPath } from './paths.ts';
import { isMissingPath, Root } from './root.ts';
import { type DiffTarget, openTarget } from './target.ts';

const S_ISGID = 0o2000;

/** The access control list that new files in a directory inherit (acl(5)). */
const DEFAULT_ACL = 'system.posix_acl_default';

/** Prefixes of extended attributes that are valid only in one layer. */
const NOT_COPIED = ['trusted.', 'user.overlay.'];

/** Milliseconds of work between two turns of the event loop. */
const TURN = 20;

/** The directories of the layers below a layer, nearest first, and the key of the layer's snapshot. */
export type LayersBelow = Pick<DiffTarget, 'key' | 'lowers'> & {
  /** Opens the tree of a layer below, by its path in `lowers`; default: the path is that of a directory. */
  readonly openLower?: ((path: string) => LayerTree) | undefined;
};

/** A directory that was made because it contains an entry, before a possible entry for the directory itself. */
export interface ImpliedDirectory {
  /** Its real path below the root, without links, bytes as latin1. */
  readonly path: string;
  readonly inode: bigint;
  /**
   * The extended attributes of a later entry for this directory, `undefined` if there is none. That entry sets all other
   * attributes; extended attributes that it does not have still come from the layers below.
   */
  readonly given: readonly string[] | undefined;
  /** Whether the parent directory, too, had no entry yet when this directory was made. */
  readonly inUnnamed: boolean;
  /**
   * Whether the directory has the times of another directory's entry, because a symbolic link replaced the other
   * directory and leads here.
   */
  readonly timed: boolean;
  /** Whether the layer deletes the directory of the layers below at the same path. */
  readonly deleted: boolean;
}

/**
 * Gives implied directories the owner, mode, times and extended attributes of the same directory in the nearest layer
 * below, as overlayfs does when it copies a directory up. A directory keeps its initial attributes (0755) in three
 * cases: no layer below has it, the nearest layer has another type of file there, or the layer deletes the directory. A
 * directory with a later entry gets only extended attributes that this entry does not have, because containerd copies
 * attributes before it applies the entry.
 *
 * This is always the last step of a pass, even if the layers below existed before the pass, so that the result does not
 * depend on the order in which layers are applied. Files that are already in the directory do not inherit a default ACL
 * that is copied now. In this case the layer needs a second pass (second-pass.ts).
 * @param root the layer
 * @param modes set if owners are not kept: directories whose modes deny access to their owner
 * @param checkpoint called once per directory
 * @returns whether a default ACL was copied
 */
export function copyParentAttributes(
  root: Root,
  below: LayersBelow,
  implied: readonly ImpliedDirectory[],
  modes?: readonly DirectoryMode[],
  checkpoint: Checkpoint = NO_CHECKPOINT,
): boolean {
  const steps = copying(root, below, implied, modes);
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
    checkpoint();
  }
}

/**
 * The same on the main thread, which opens the layer again: it yields to the event loop, because a layer can have millions
 * of implied directories.
 */
export async function copyParentAttributesInTurns(
  target: Pick<DiffTarget, 'root'> & LayersBelow,
  implied: readonly ImpliedDirectory[],
  modes: readonly DirectoryMode[] | undefined,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  using root = openTarget(target);
  const steps = copying(root, target, implied, modes);
  try {
    for (let began = performance.now(); ; ) {
      const { done, value } = steps.next();
      if (done === true) return value;
      if (performance.now() - began < TURN) continue;
      await nextTurn();
      throwIfAborted(signal);
      began = performance.now();
    }
  } finally {
    steps.return(false);
  }
}

function* copying(
  root: Root,
  layersBelow: LayersBelow,
  implied: readonly ImpliedDirectory[],
  modes: readonly DirectoryMode[] | undefined,
): Generator<void, boolean> {
  if (implied.length === 0 || layersBelow.lowers.length === 0) {
    yield* closeDirectories(root, modes ?? []);
    return false;
  }
  // if the layers below did not exist, the apply thread has already closed the directories
  if (modes !== undefined) yield* openDirectories(root, modes);
  const closing = modes === undefined ? undefined : [...modes];
  using below = new LowerDirectories(layersBelow, root);
  const { tree } = root;
  let inherits = false;
  /** Groups of set-group-ID directories by path: implied directories in them inherit the group. */
  const groups = new Map<string, number>();
  for (const { path, inode, given, inUnnamed, timed, deleted } of implied) {
    yield;
    const bytes = Buffer.from(path, 'latin1');
    const { parent, name } = splitPath(bytes);
    const cName = cString(name);
    const lower = deleted ? undefined : below.find(bytes);
    if (lower !== undefined && (lower.status.mode & S_ISGID) !== 0) groups.set(path, lower.status.gid);
    const directory = root.directory(parent);
    const status = tree.statAt(directory, cName);
    if (status?.inode !== inode) continue;
    const group = inUnnamed ? groups.get(parent.toString('latin1')) : undefined;
    if (lower !== undefined) {
      const { atime, mtime } = timed ? status : lower.status;
      const from = given === undefined ? { ...lower.status, atime, mtime } : status;
      const rules = { except: given ?? [], squash: closing !== undefined };
      if (copyAttributes(lower, tree, directory, cName, from, rules)) inherits = true;
      if (given === undefined && deniesOwner(from.mode)) closing?.push({ path, inode, mode: from.mode & 0o7777 });
    } else if (given === undefined && closing === undefined && group !== undefined) {
      tree.chownAt(directory, cName, status.uid, group);
    }
  }
  if (closing !== undefined) yield* closeDirectories(root, closing);
  return inherits;
}

/** A directory of a layer below. */
export interface LowerDirectory {
  readonly tree: LayerTree;
  /** Open until about a hundred more directories are requested. */
  readonly handle: number;
  readonly status: FileStatus;
}

/** The directories of the layers below a layer, in which implied directories find their attributes. */
export class LowerDirectories implements Disposable {
  private readonly layers: readonly Root[];
  private readonly stack = new DisposableStack();

  /**
   * @param root the layer. If `key` is given, it is a directory of a store.
   * @throws UnpackError STORE_FAILED if a directory is not of the same store; system errors
   */
  constructor({ lowers, key, openLower }: LayersBelow, root: Root) {
    const open = openLower ?? ((path: string) => new KernelTree(path));
    try {
      this.layers = lowers.map((path) => this.stack.use(new Root(open(path))));
      if (key !== undefined) for (const { tree } of this.layers) requireSameOwner(tree.root, root.tree.root);
    } catch (error) {
      this.stack.dispose();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    this.stack.dispose();
  }

  /**
   * The directory at a real path in the nearest layer that has anything there. For a user who is not root, directories
   * without access for this user count as missing.
   * @returns `undefined` if there is no directory
   */
  find(path: Buffer): LowerDirectory | undefined {
    for (const layer of this.layers) {
      try {
        const { tree } = layer;
        const handle = layer.directory(path);
        return { tree, handle, status: tree.statFd(handle) };
      } catch (error) {
        const errno = errnoOf(error);
        if (errno === 'ENOENT') continue;
        if (errno === 'EACCES' || isMissingPath(error)) return undefined;
        throw error;
      }
    }
    return undefined;
  }
}

export interface CopyRules {
  /** Extended attributes that are not copied. */
  readonly except: readonly string[];
  /** Whether the owner is not copied. If so, this user keeps access to the directory until `closeDirectories`. */
  readonly squash: boolean;
}

/**
 * Gives the directory `name` in `parent` the owner, mode and times of `status` and the extended attributes of `lower`.
 * @param tree the tree of the layer
 * @returns whether `lower` has a default ACL
 */
export function copyAttributes(
  lower: LowerDirectory,
  tree: LayerTree,
  parent: number,
  name: Buffer,
  { uid, gid, mode, atime, mtime }: FileStatus,
  { except, squash }: CopyRules,
): boolean {
  if (!squash) tree.chownAt(parent, name, uid, gid);
  const xattrs = squash ? readableXattrs(lower) : lower.tree.xattrs(lower.handle);
  for (const [key, value] of xattrs) {
    if (except.includes(key) || NOT_COPIED.some((prefix) => key.startsWith(prefix))) continue;
    setFitting(tree, key, value, () => tree.setXattrAt(parent, name, cString(Buffer.from(key, 'latin1')), value));
  }
  // after the extended attributes, because an ACL changes the mode
  tree.chmodAt(parent, name, (mode & 0o7777) | (squash ? OWNER_RIGHTS : 0));
  tree.utimensAt(parent, name, atime, mtime);
  return xattrs.has(DEFAULT_ACL);
}

/** Empty for a directory whose mode keeps an ordinary user from reading its attributes. */
function readableXattrs({ tree, handle }: LowerDirectory): Map<string, Buffer> {
  try {
    return tree.xattrs(handle);
  } catch (error) {
    if (errnoOf(error) === 'EACCES') return new Map();
    throw error;
  }
}
