import type { MountRequest } from '../system/mount-fsmount.ts';
import type { Owner } from './holder.ts';

/**
 * A store of file system snapshots, modelled on containerd's `Snapshotter`.
 *
 * The life of a snapshot: `prepare` makes an active snapshot under a `key`, with a committed `parent` or without one. Its
 * mounts are writable, and the layer is written into it. `commit` makes it read-only for ever, under a `name`; the key is
 * free again. A committed snapshot can be a parent. `remove` deletes a snapshot and its files. `view` makes a read-only
 * snapshot of a committed one, which can only be removed.
 *
 * `key` always means an active snapshot or a view, `name` a committed one, `parent` the name of a committed one. Keys and
 * names must differ from one another. Each change is one transaction: after a crash, all or nothing of it has happened.
 *
 * Any call can throw UnpackError STORE_FULL or STORE_FAILED. All other errors are SnapshotErrors. The comment of each
 * method lists the possible values of `kind`. Callers test the `kind`, never the text.
 */
export interface Snapshotter {
  /** The directory with the files of the snapshots, an absolute path. */
  readonly root: string;
  /** The directory with the files of its locks and leases, an absolute path. Our own store keeps them in `root`. */
  readonly state: string;
  readonly type: 'overlay' | 'native';
  /**
   * Whether `commit` can give a parent to a snapshot that was prepared without one. Then layers can be written before the
   * layers below them exist.
   */
  readonly rebase: boolean;
  /** Whether this process demands that all files of a snapshot are on disk. If so, it must sync them before each commit. */
  readonly durable: boolean;
  /** The same for all layers of a store. */
  readonly ownership: Ownership;
  /** The same for all layers of a store. */
  readonly overlayXattrs: OverlayXattrs;
  /** How the keys begin that are made while a layer is unpacked. What is left of them after a crash is removed. */
  readonly extraction: string;
  /** Whether a record of the store lies beside the files of each snapshot, so that their directory can be recognised. */
  readonly marked: boolean;
  /** Who removes what nobody needs any more. */
  readonly collectedBy: 'unpackd' | 'containerd';

  /** @throws NotFound */
  stat(key: string): Promise<SnapshotInfo>;
  /** Whether a committed snapshot has this name and can be used, with all below it. Takes half as long as `stat`. */
  has(name: string): Promise<boolean>;
  /**
   * The keys of active snapshots and views that begin with `prefix`, sorted, without those that are claimed. The time does
   * not depend on the number of other snapshots.
   * @param prefix ASCII, not empty
   */
  keys(prefix: string): Promise<string[]>;
  /** @throws AlreadyExists when the key is taken, NotFound when there is no such parent, InvalidArgument when the parent is not committed */
  prepare(key: string, parent: string, options?: SnapshotOptions): Promise<Mount[]>;
  /** A read-only snapshot of `parent`. @throws as `prepare` */
  view(key: string, parent: string, options?: SnapshotOptions): Promise<Mount[]>;
  /** The mounts of an active snapshot or a view, as `prepare` or `view` returned them. @throws NotFound */
  mounts(key: string): Promise<Mount[]>;
  /**
   * The mounts that `view` of this committed snapshot would return. No snapshot is made, so nothing keeps the store from
   * removing it.
   * @throws NotFound, also if it is broken or not committed
   */
  viewMounts(name: string): Promise<readonly Mount[]>;
  /**
   * Makes the active snapshot `key` the committed snapshot `name`. `options.parent` gives a parent to a snapshot that was
   * prepared without one; the root directory then gets the owner of the parent's root directory.
   * @throws AlreadyExists when the name is taken (the active snapshot stays), NotFound when there is no such key or
   * parent, InvalidArgument when `key` is not active or already has another parent
   */
  commit(name: string, key: string, options?: CommitOptions): Promise<void>;
  /**
   * Keeps these committed snapshots, also those that do not exist yet, from being removed until the lease is disposed. Take
   * the lease first and look then whether they exist. The lease of a process that dies ends at once.
   * @param needs what the owner still has to write
   */
  lease(names: readonly string[], owner: Owner, needs?: Usage): Promise<Lease>;
  /**
   * Removes the snapshot now, and its files in the background.
   * @throws NotFound, FailedPrecondition when it has children, is claimed, or is committed and leased
   */
  remove(key: string): Promise<void>;
  /** Replaces labels: all of them, or those that `fields` names (`labels.NAME`). @throws NotFound, InvalidArgument for any other field */
  update(info: Pick<SnapshotInfo, 'name' | 'labels'>, fields?: readonly string[]): Promise<SnapshotInfo>;
  /**
   * What the snapshot takes on disk, without its parents. Each call asks for the status of every file, which takes about
   * 0.5 s for 100,000 files; `SnapshotInfo.size` is an estimate that takes no time.
   * @throws NotFound
   */
  usage(key: string): Promise<Usage>;
  /** All snapshots that match the filter, sorted by key. */
  walk(filter?: SnapshotFilter): Promise<SnapshotInfo[]>;
  /**
   * How many layers of a committed snapshot, itself and those below, are not known to be on disk.
   * @param below the names of the layers below, if they are known. containerd is asked for all of them at once then
   * @throws NotFound
   */
  unsynced(name: string, below?: readonly string[]): Promise<Unsynced>;
  /**
   * Syncs what this process has committed without a sync, and records it. If the kernel reports a loss, all snapshots that are
   * not synced become suspect.
   */
  sync(): Promise<void>;
  /** The snapshots that are mounted on this machine, in any mount namespace. */
  mounted(): Promise<MountedSnapshots>;
  /** Removes directories that belong to no snapshot. @returns how many */
  cleanup(): Promise<number>;
  /** Waits for calls and deletions that are under way, and closes the files. A second call does nothing. */
  close(): Promise<void>;
}

/** The part of a Snapshotter that changes nothing. */
export type SnapshotReader = Pick<
  Snapshotter,
  | 'root'
  | 'state'
  | 'type'
  | 'collectedBy'
  | 'stat'
  | 'has'
  | 'keys'
  | 'mounts'
  | 'viewMounts'
  | 'usage'
  | 'walk'
  | 'mounted'
  | 'close'
>;

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
  /** The nanoseconds of `created` and `updated` beyond the milliseconds of a Date, 0 to 999,999. Absent: not known. */
  readonly nanoseconds?: { readonly created: number; readonly updated: number };
  /**
   * What it takes on disk, without its parents: an estimate (`CommitOptions.usage`). Absent if it was not recorded, and for
   * active snapshots and views.
   */
  readonly size?: Usage;
  /** Whether its own files are known to be on disk, without those of the snapshots below. Only a committed one's can be. */
  readonly synced: boolean;
  /**
   * Its own files may be incomplete for what this process demands: they were not synced, and this process demands that, or
   * the mount through which they were written is not the one that it uses. `has` does not see a suspect snapshot, or one on
   * it, and `commit` replaces it.
   */
  readonly suspect?: true;
  /** Why it cannot be used. Absent if it can. */
  readonly broken?: BrokenReason;
  /** containerd knows it. Absent if not. */
  readonly claim?: Claim;
}

/**
 * How containerd got to know a snapshot of our own store, which it uses through `unpackd snapshotter`. `made`: it was prepared
 * through containerd. `adopted`: it was unpacked without containerd, which then found it. Everything below a claimed snapshot
 * is claimed. Only a call for containerd removes a claimed snapshot.
 */
export type Claim = 'made' | 'adopted';

/** Whether a snapshot could be used if all below it could. `commit` replaces one that is not whole. */
export function isWhole({ suspect, broken }: Pick<SnapshotInfo, 'suspect' | 'broken'>): boolean {
  return suspect === undefined && (broken === undefined || broken === 'parent');
}

/**
 * `gone`: its directory is missing. `foreign`: the directory of its number is not its own. `parent`: a snapshot below it is
 * broken. `has` does not see a broken snapshot. `commit` replaces it, unless only a snapshot below must be replaced.
 */
export type BrokenReason = 'gone' | 'foreign' | 'parent';

export interface SnapshotOptions {
  readonly labels?: Readonly<Record<string, string>>;
  /** containerd asks for the snapshot: it and all below it are claimed. Only our own store has claims. */
  readonly claimed?: true;
}

export interface CommitOptions extends Pick<SnapshotOptions, 'labels'> {
  readonly parent?: string;
  /** What the layer adds to the disk, as its writer counted it. A native store adds the size of the parent, which it copies. */
  readonly usage?: Usage;
  /**
   * The caller has synced the files. Default: false. Then this process syncs them within some seconds, in the background, and
   * records that.
   */
  readonly synced?: boolean;
}

/** Numbers of layers that are not known to be on disk. */
export interface Unsynced {
  /** This process has committed them, and syncs them soon. */
  readonly own: number;
  /** All other ones. */
  readonly others: number;
}

export interface SnapshotFilter {
  readonly name?: string;
  readonly parent?: string;
  readonly kind?: SnapshotKind;
  /** The snapshot must have all of these labels, with these values. */
  readonly labels?: Readonly<Record<string, string>>;
}

export interface Usage {
  /** Allocated bytes. */
  readonly bytes: number;
  /** A file with several hard links counts once. */
  readonly inodes: number;
}

/** Where a snapshot is mounted. */
export interface MountPlace {
  readonly point: string;
  /** A process that sees the mount. */
  readonly process: number;
}

export interface MountedSnapshots {
  /** By key or name. A mounted overlay uses all snapshots that it consists of. */
  readonly places: ReadonlyMap<string, MountPlace>;
  /** Why there may be mounts that were not seen, and what to do, as a clause. `undefined`: all were seen. */
  readonly unseen: string | undefined;
}

/** Keeps committed snapshots from being removed while a job needs them. Disposal ends the lease. */
export interface Lease extends AsyncDisposable {
  /** Records what the job still has to write. @throws system errors */
  update(needs: Usage): Promise<void>;
}

/** `keep`: files get the owners that the image names. `squash`: all files belong to the user of this process. */
export type Ownership = 'keep' | 'squash';

/** The namespace of the extended attributes that hold overlayfs's marks. `user` needs the mount option `userxattr`. */
export type OverlayXattrs = 'trusted' | 'user';

/** One mount, as containerd describes it. */
export type Mount = MountRequest;

/** The value of `Snapshotter.extraction` in our own store, as in containerd. */
export const EXTRACTION = 'extract-';
/** Label with the chain ID. containerd finds a finished layer by it. */
export const LABEL_SNAPSHOT_REF = 'containerd.io/snapshot.ref';
/** Maximum size of a label's key and value together in bytes (containerd, pkg/labels). */
export const MAX_LABEL_BYTES = 4096;
/** Label with the DiffID of the layer in a committed snapshot. */
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
