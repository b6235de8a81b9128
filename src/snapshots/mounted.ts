import { type BigIntStats, readdirSync, realpathSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { errnoOf } from '../errno.ts';
import { allMounts } from '../system/mount-namespaces.ts';
import {
  type FileSystemPlace,
  type MountEntry,
  mountEntry,
  mountTable,
  placeByTable,
  placeInFileSystem,
  plainText,
} from '../system/mount-table.ts';
import { isSame, snapshotsDirectory } from './directories.ts';
import { bootTime } from './later-sync.ts';
import type { MountPlace } from './snapshotter.ts';

/**
 * Which snapshots of a store are mounted: by bind mounts of their directories, or by overlays whose layers they are. Removals
 * and the collector ask for all mounts of the machine, `unpackd snapshots umount` for one.
 */

export interface StoreMounts {
  /** The numbers of the mounted snapshots, also of those whose directories have the name `rm-…`. */
  readonly places: ReadonlyMap<number, MountPlace>;
  /** Why there may be mounts that were not seen, and what to do, as a clause. `undefined`: all were seen. */
  readonly unseen: string | undefined;
}

/** What a path leads to, as far as this process can tell. */
type Looked = BigIntStats | 'absent' | 'denied';

const BIG_OR_NONE = { bigint: true, throwIfNoEntry: false } as const;
/** The names of a snapshot's directory, with its number: `ID`, or `rm-ID-…` when it is being deleted. */
const NAME = '(?:([1-9]\\d*)|rm-([1-9]\\d*)-[0-9a-f]+)';
/** A snapshot's tree as a layer of an overlay. */
const TREE = new RegExp(`(?:^|/)${NAME}/fs/*$`);
/** A directory of a snapshot, or one inside it, relative to ROOT/snapshots. */
const INSIDE = new RegExp(`^/${NAME}(?:/|$)`);
/** Where containerd's overlayfs snapshotter has its snapshots, whatever its root is. Their directories are named as ours. */
const CONTAINERDS = /\/io\.containerd\.snapshotter\.v1\.overlayfs\/snapshots$/;
/** This process as a process of its own namespace. */
const HERE = '/proc/self/root';

/**
 * The mounts of a store in all mount namespaces of the machine.
 *
 * Not seen are: a mount that a process has made and not attached yet; an overlay over another mount of a snapshot, if that
 * other mount is not there any more; files that stay open without a mount.
 * Without /proc no mount is seen. A path that this process may not look at counts if it is the path of the store, or if the mounts
 * of a process that sees it lead from there to the store.
 */
export async function storeMounts(root: string): Promise<StoreMounts> {
  try {
    return await mountsOf(root);
  } catch (error) {
    if (errnoOf(error) === undefined) throw error;
    return { places: new Map(), unseen: `/proc cannot be read (${errnoOf(error)}): mount it` };
  }
}

async function mountsOf(root: string): Promise<StoreMounts> {
  const store = await StorePlace.of(root);
  const places = new Map<number, MountPlace>();
  const { namespaces, unseen } = allMounts();
  for (const { text, root, process } of namespaces) {
    const lines = text.split('\n');
    const viewer = new Viewer(root, () => lines.flatMap((line) => mountEntry(line) ?? []));
    for (const line of lines) {
      // most lines are neither, and parsing takes longer than this look
      if (!line.includes(' - overlay ') && !line.includes(` ${store.device} `)) continue;
      const mount = mountEntry(line);
      if (mount === undefined) continue;
      for (const id of store.snapshotsIn(mount, viewer))
        if (!places.has(id)) places.set(id, { point: mount.point, process });
    }
  }
  return { places, unseen };
}

/**
 * Whether a directory can be mounted where this process cannot see it: not if it was last changed before the machine started,
 * because mounts end with it. A rename is a change too.
 */
export function canBeMountedUnseen(path: string, { unseen }: StoreMounts): boolean {
  if (unseen === undefined) return false;
  const booted = bootTime();
  return booted === undefined || statSync(path).ctimeMs >= booted;
}

/** Whether a mount of this process shows snapshots of the store at `root`. @throws system errors */
export async function isOfStore(root: string, mount: MountEntry): Promise<boolean> {
  return (await StorePlace.of(root)).snapshotsIn(mount, new Viewer(HERE, mountTable)).length > 0;
}

/** A process that sees a mount. */
class Viewer {
  /** The path to its root directory. */
  readonly root: string;
  readonly #read: () => MountEntry[];
  #table: MountEntry[] | undefined;

  constructor(root: string, read: () => MountEntry[]) {
    this.root = root;
    this.#read = read;
  }

  /** Where a path leads it, by the mounts that it sees. Symbolic links are not followed. */
  place(path: string): FileSystemPlace | undefined {
    this.#table ??= this.#read();
    return placeByTable(path, this.#table);
  }
}

/** Where ROOT/snapshots is, and what paths of other processes have to do with it. For one look only. */
class StorePlace {
  /** `major:minor` of its file system, as mountinfo shows it. */
  readonly device: string;
  readonly #directory: string;
  /** ROOT/snapshots inside its file system, without a slash at the end. */
  readonly #inside: string;
  readonly #status: BigIntStats | undefined;
  /** The real path of it. */
  readonly #realDirectory: string;
  /** The status of each path that was looked at. */
  readonly #looked = new Map<string, Looked>();
  /** The overlays that were parsed, by their options. A namespace often has copies of the mounts of another. */
  readonly #overlays = new Map<string, Overlay>();
  #byInode: ReadonlyMap<bigint, number> | undefined;

  private constructor(directory: string, place: FileSystemPlace | undefined) {
    this.device = place?.device ?? '';
    this.#directory = directory;
    this.#inside = place === undefined || place.path === '/' ? '' : place.path;
    const status = this.#look(directory);
    this.#status = isStatus(status) ? status : undefined;
    this.#realDirectory = this.#status === undefined ? directory : realpathSync(directory);
  }

  static async of(root: string): Promise<StorePlace> {
    const directory = snapshotsDirectory(root);
    return new StorePlace(directory, await placeInFileSystem(directory, mountTable()));
  }

  /** The numbers of the snapshots that a mount uses. */
  snapshotsIn(mount: MountEntry, viewer: Viewer): number[] {
    if (mount.type === 'overlay') return this.#inOverlay(mount.options, viewer);
    if (mount.device !== this.device || !mount.root.startsWith(this.#inside)) return [];
    const number = numberIn(INSIDE, mount.root.slice(this.#inside.length));
    return number === undefined ? [] : [number];
  }

  #inOverlay(options: string, viewer: Viewer): number[] {
    let overlay = this.#overlays.get(options);
    if (overlay === undefined) {
      overlay = overlayOf(options, this.#directory);
      this.#overlays.set(options, overlay);
    }
    const trees = overlay.trees.flatMap(({ parent, numbers }) => (this.#isParent(parent, viewer) ? numbers : []));
    return [...overlay.unknown, ...trees, ...overlay.others.flatMap((path) => this.#byStatus(path, viewer.root) ?? [])];
  }

  /**
   * Whether a directory of an overlay's layers is ROOT/snapshots. The process that mounted the overlay resolved the path, and it
   * may have seen other directories. So the path is resolved again: for this process, and for one that sees the mount.
   *
   * If the path is missing for both, the answer is yes, to be on the safe side. A path of containerd is the exception: the root of
   * the container that this process runs in is such an overlay.
   *
   * A worker in a container with few capabilities may not look at paths of other processes. Then the mounts that the other process
   * sees decide, because the store can have another path there.
   */
  #isParent(path: string, viewer: Viewer): boolean {
    const looked = [HERE, viewer.root].map((view) => this.#look(`${view}${path}`));
    const found = looked.filter(isStatus);
    if (found.some((status) => this.#status !== undefined && isSame(status, this.#status))) return true;
    if (found.length > 0 && !looked.includes('denied')) return false;
    if (path === this.#directory || path === this.#realDirectory) return true;
    if (looked.every((each) => each === 'absent')) return !CONTAINERDS.test(path);
    const place = viewer.place(path);
    return place !== undefined && place.device === this.device && place.path === (this.#inside || '/');
  }

  /** The number of a tree whose path does not end like one, such as a symbolic link to it. */
  #byStatus(path: string, root: string): number | undefined {
    for (const view of [HERE, root]) {
      const status = this.#look(`${view}${path}`);
      if (!isStatus(status) || status.dev !== this.#status?.dev) continue;
      const number = this.#trees().get(status.ino);
      if (number !== undefined) return number;
    }
    return undefined;
  }

  /** The numbers of all trees, by their inodes. */
  #trees(): ReadonlyMap<bigint, number> {
    this.#byInode ??= new Map(
      readdirSync(this.#directory).flatMap((name) => {
        const number = numberIn(INSIDE, `/${name}`);
        const status = this.#look(join(this.#directory, name, 'fs'));
        return number === undefined || !isStatus(status) ? [] : [[status.ino, number] as const];
      }),
    );
    return this.#byInode;
  }

  #look(path: string): Looked {
    let looked = this.#looked.get(path);
    if (looked === undefined) {
      looked = look(path);
      this.#looked.set(path, looked);
    }
    return looked;
  }
}

function look(path: string): Looked {
  try {
    return statSync(path, BIG_OR_NONE) ?? 'absent';
  } catch (error) {
    const errno = errnoOf(error);
    return errno === 'EACCES' || errno === 'EPERM' ? 'denied' : 'absent';
  }
}

function isStatus(looked: Looked): looked is BigIntStats {
  return typeof looked === 'object';
}

function numberIn(pattern: RegExp, path: string): number | undefined {
  const [, own, removed] = pattern.exec(path) ?? [];
  const digits = own ?? removed;
  return digits === undefined ? undefined : Number(digits);
}

/** The layers of an overlay. */
interface Overlay {
  /** Those that look like trees of snapshots, by the directory of all of them. */
  readonly trees: readonly { readonly parent: string; readonly numbers: readonly number[] }[];
  /** The numbers of those whose directory only the process that mounted them can tell. */
  readonly unknown: readonly number[];
  readonly others: readonly string[];
}

/** @param directory the one that relative paths start from, if nothing tells another */
function overlayOf(options: string, directory: string): Overlay {
  const { lower, upper } = layersOf(options);
  const [first = ''] = upper;
  // containerd shortens lower layers, but not the upper one, to paths relative to the directory of all snapshots
  const base = first.startsWith('/') ? dirname(dirname(first)) : directory;
  const trees = new Map<string, number[]>();
  const unknown: number[] = [];
  const others: string[] = [];
  for (const layer of [...lower, ...upper]) {
    const number = numberIn(TREE, layer);
    const path = resolve(base, layer);
    const parent = dirname(dirname(path));
    if (number === undefined) others.push(path);
    // descriptors of the process that mounted it: see mount-syscall.ts
    else if (/^\/(proc|dev\/fd)\//.test(layer)) unknown.push(number);
    else trees.set(parent, [...(trees.get(parent) ?? []), number]);
  }
  return { trees: [...trees].map(([parent, numbers]) => ({ parent, numbers })), unknown, others };
}

/** The directories that an overlay consists of: `lowerdir=a:b`, or `lowerdir+=a` for each. */
function layersOf(options: string): { readonly lower: string[]; readonly upper: string[] } {
  const lower: string[] = [];
  const upper: string[] = [];
  for (const option of options.split(',')) {
    const [, kind, escaped = ''] = /^(lowerdir\+?|datadir\+|upperdir)=(.*)$/.exec(option) ?? [];
    if (kind === undefined) continue;
    const value = plainText(escaped);
    if (kind === 'upperdir') upper.push(value);
    else if (kind !== 'lowerdir') lower.push(value);
    else for (const path of value.split(/(?<!\\):/)) if (path !== '') lower.push(path.replace(/\\(.)/g, '$1'));
  }
  return { lower, upper };
}
