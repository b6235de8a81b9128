/**
 * A store of file system snapshots, after containerd's `Snapshotter`.
 *
 * The life of a snapshot: it is *prepared* under a `key`, on a committed `parent` or on nothing, and is then active: its
 * mounts are writable. Something writes into it (for a layer, the applier). It is *committed* under a `name`, which
 * makes it read-only for ever and a possible parent; the key is gone. Or it is *removed*, with everything in it. A *view*
 * is a read-only look at a committed snapshot, and is only ever removed.
 *
 * `key` always means an active snapshot or a view, `name` a committed one, `parent` the name of a committed one. Keys
 * and names share one space. Every change is one transaction: after a crash it has happened or it has not.
 *
 * Errors are SnapshotError, told apart by `kind` and never by text, and UnpackError STORE_FULL or STORE_FAILED, which any
 * call may throw.
 */
export interface Snapshotter {
  /** Where the store lives, an absolute path. */
  readonly root: string;
  readonly type: 'overlay' | 'native';
  /**
   * Whether a snapshot that was prepared on nothing can be given its parent at commit, so that layers can be written
   * before the layers below them are there.
   */
  readonly rebase: boolean;
  /** The same for all layers of a store, like the next. */
  readonly ownership: Ownership;
  readonly overlayXattrs: OverlayXattrs;

  /** @throws NotFound */
  stat(key: string): Promise<SnapshotInfo>;
  /** Whether a committed snapshot has this name now: a part of what `stat` says, for half of the time. */
  has(name: string): Promise<boolean>;
  /** The keys of active snapshots and views that begin so, in order. Others, however many, cost nothing. @param prefix ASCII */
  keys(prefix: string): Promise<string[]>;
  /** @throws AlreadyExists when the key is taken, NotFound when there is no such parent, InvalidArgument when the parent is not committed */
  prepare(key: string, parent: string, options?: SnapshotOptions): Promise<Mount[]>;
  /** A read-only snapshot of `parent`. @throws as prepare */
  view(key: string, parent: string, options?: SnapshotOptions): Promise<Mount[]>;
  /** The mounts of an active snapshot or a view, again. @throws NotFound */
  mounts(key: string): Promise<Mount[]>;
  /**
   * Makes the active snapshot `key` the committed snapshot `name`. With `options.parent`, one that was prepared on
   * nothing gets its parent now (its root then takes its owner from that parent's root).
   * @throws AlreadyExists when the name is taken (the active snapshot stays), NotFound when there is no such key or
   * parent, InvalidArgument when `key` is not active or already has another parent
   */
  commit(name: string, key: string, options?: CommitOptions): Promise<void>;
  /** Gone at once, its files soon after. @throws NotFound, FailedPrecondition when it has children */
  remove(key: string): Promise<void>;
  /** Replaces labels: all of them, or those that `fields` names (`labels.NAME`). @throws NotFound, InvalidArgument for any other field */
  update(info: Pick<SnapshotInfo, 'name' | 'labels'>, fields?: readonly string[]): Promise<SnapshotInfo>;
  /** What the snapshot itself takes on disk, without its parents. @throws NotFound */
  usage(key: string): Promise<Usage>;
  /** Every snapshot that matches, sorted by key. */
  walk(filter?: SnapshotFilter): Promise<SnapshotInfo[]>;
  /** Removes directories that no snapshot owns; returns how many. */
  cleanup(): Promise<number>;
  /** Releases what the object holds; a second call does nothing. */
  close(): Promise<void>;
}

export type SnapshotKind = 'active' | 'view' | 'committed';

export interface SnapshotInfo {
  readonly kind: SnapshotKind;
  /** The key of an active snapshot or view, the name of a committed one. */
  readonly name: string;
  /** `""` for none. */
  readonly parent: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly created: Date;
  readonly updated: Date;
}

export interface SnapshotOptions {
  readonly labels?: Readonly<Record<string, string>>;
}

export interface CommitOptions extends SnapshotOptions {
  readonly parent?: string;
}

export interface SnapshotFilter {
  readonly name?: string;
  readonly parent?: string;
  readonly kind?: SnapshotKind;
  /** Every one of these must be there with that value. */
  readonly labels?: Readonly<Record<string, string>>;
}

export interface Usage {
  /** Bytes of blocks, a hard-linked file counted once. */
  readonly bytes: number;
  readonly inodes: number;
}

/** Whether a layer's files get the owners that it gives them, or all belong to the user who writes them. */
export type Ownership = 'keep' | 'squash';

/** The family of attributes that overlayfs keeps its marks in: `user` where the mount has the option `userxattr`. */
export type OverlayXattrs = 'trusted' | 'user';

/** One mount(8) to make, as containerd describes it. */
export interface Mount {
  readonly type: 'bind' | 'overlay';
  /** The directory to bind; `overlay` for an overlay. */
  readonly source: string;
  /** As `mount -o` takes them, e.g. `rbind`, `ro`, `lowerdir=A:B`. */
  readonly options: readonly string[];
}

/** The label by which containerd finds a ready-made layer: the chain ID. */
export const LABEL_SNAPSHOT_REF = 'containerd.io/snapshot.ref';
/** The DiffID of the layer that a committed snapshot holds. */
export const LABEL_DIFF_ID = 'containerd.io/snapshot/diff-id';

export type SnapshotErrorKind = 'NotFound' | 'AlreadyExists' | 'InvalidArgument' | 'FailedPrecondition';

/** A call that the store refuses, after containerd's errdefs. A failure of the machine is an UnpackError instead. */
export class SnapshotError extends Error {
  override readonly name = 'SnapshotError';
  readonly kind: SnapshotErrorKind;

  constructor(kind: SnapshotErrorKind, message: string) {
    super(message);
    this.kind = kind;
  }
}

export function isSnapshotError(thrown: unknown, kind: SnapshotErrorKind): thrown is SnapshotError {
  return thrown instanceof SnapshotError && thrown.kind === kind;
}
