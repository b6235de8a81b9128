import type { StoreType } from './conformance.ts';
import { key, linkedPath, type RandomEntry, type RandomImage, type RandomLayer } from './random-image.ts';

/**
 * The equivalent image for which containerd leaves the tree that the OCI image specification requires.
 *
 * A whiteout hides what is below, but never what the same layer adds, in any order (layer.md#whiteouts). containerd goes by
 * the order: in an overlay it refuses a layer that deletes and makes the same name, or shows the content from below; in
 * other directories it removes what the layer has made. So the whiteouts are moved to where their order does no harm. Layers
 * with symbolic links are not changed: two paths may lead to the same file there, and such layers delete nothing of their
 * own.
 * @returns `undefined` if links or the order leave open what a directory inherits, or if a hard link is to a name that the
 * layer has deleted, because containerd then links to the whiteout
 */
export function whiteoutsForContainerd(image: RandomImage, type: StoreType): RandomImage | undefined {
  const layers: RandomLayer[] = [];
  for (const [index, each] of image.entries()) {
    const hasLinks = each.some(({ kind }) => kind === 'symlink');
    const layer = hasLinks ? each : withoutEmptiedDirectories(each);
    if (layer === undefined) return undefined;
    if (hasLinks) layers.push(layer);
    else if (index === 0) layers.push(layer.map(deletesNothing));
    else {
      const lowers = image.slice(0, index);
      if (type === 'native' && mayLeadThroughLink(layer, lowers)) return undefined;
      const equivalent = type === 'native' ? deletionsFirst(layer, lowers) : forOverlay(layer, lowers);
      if (equivalent === undefined) return undefined;
      layers.push(equivalent);
    }
  }
  return layers;
}

/**
 * Whether the meaning of a hard link depends on more than the entries of its layer. A hard link to a symbolic link of a
 * layer below is a link that paths can lead through. A hard link to a link, device or FIFO that has two names already sets
 * the attributes of both names, but not in containerd's full copies, which lose such hard links.
 */
export function hasUntoldLinks(image: RandomImage): boolean {
  const symlinks = new Set<string>();
  const others = new Set<string>();
  /** Last names of links, devices and FIFOs that have several names. */
  const linkedOthers = new Set<string>();
  for (const layer of image) {
    const links = layer.filter(({ kind }) => kind === 'hardlink');
    const targets = links.map((entry) => lastOf(linked(entry)));
    if (targets.some((target) => symlinks.has(target) || linkedOthers.has(target))) return true;
    for (const { kind, path } of layer) {
      if (kind === 'symlink') symlinks.add(lastOf(key(path)));
      if (kind === 'symlink' || kind === 'device' || kind === 'fifo') others.add(lastOf(key(path)));
    }
    for (const [index, target] of targets.entries()) {
      if (!others.has(target)) continue;
      linkedOthers.add(target);
      linkedOthers.add(lastOf(key(links[index]?.path ?? [])));
    }
  }
  return false;
}

const lastOf = (path: string): string => path.slice(path.lastIndexOf('/') + 1);

/**
 * The image for the native store, with opaque markers first. In an overlay, containerd's too, an implied directory inside an
 * opaque directory has the attributes of the directory below. In containerd's full copy this depends on the order. In
 * unpackd's full copy it has them if the marker comes too late to remove the directory.
 */
export const withOpaqueMarkersFirst = (image: RandomImage): RandomImage =>
  image.map((layer) =>
    layer.some(({ kind }) => kind === 'symlink') ? layer : firstOf(layer, ({ kind }) => kind === 'opaque'),
  );

/**
 * The layer without whiteouts inside directories that it deletes, if no other entry lies in these directories, or if a file of
 * the layer has taken their place. Such whiteouts add nothing, and containerd would keep the directories, or refuse the file.
 * @returns `undefined` if a later entry names a directory that such a whiteout has made: that directory gets extended
 * attributes of the layers below, but not in the image without the whiteout
 */
function withoutEmptiedDirectories(layer: RandomLayer): RandomLayer | undefined {
  const there = new Map<string, 'whiteouts' | 'filled'>();
  const deleted = new Set<string>();
  const dropped = new Set<RandomEntry>();
  const kept: { entry: RandomEntry; directory: string; made: readonly string[]; index: number }[] = [];
  /** Index of the last entry of each directory. */
  const named = new Map<string, number>();
  /** The layer's own entries that are not directories. */
  const files = new Set<string>();
  for (const [index, entry] of layer.entries()) {
    const directories = prefixes(isDeletion(entry) ? directoryOf(entry) : entry.path.slice(0, -1));
    const own = key(entry.path);
    if (!isDeletion(entry)) {
      if (entry.kind === 'directory') named.set(own, index);
      for (const path of [...directories, own]) {
        there.set(path, 'filled');
        files.delete(path);
      }
      if (entry.kind !== 'directory') files.add(own);
      if (entry.kind !== 'directory')
        for (const path of there.keys()) if (path.startsWith(`${own}/`)) there.delete(path);
      continue;
    }
    const missing = directories.filter((path) => !there.has(path));
    const isDeleted = (path: string): boolean => prefixesOf(path).some((above) => deleted.has(above));
    if (missing.some(isDeleted) || directories.some((path) => files.has(path) && isDeleted(path))) {
      dropped.add(entry);
      continue;
    }
    for (const path of missing) there.set(path, 'whiteouts');
    kept.push({ entry, directory: directories.at(-1) ?? '', made: missing, index });
    if (entry.kind !== 'whiteout') continue;
    deleted.add(own);
    for (const [path, what] of there) {
      if (what !== 'whiteouts' || !isAtOrAbove(own, path)) continue;
      there.delete(path);
      for (const inside of kept) {
        if (!isAtOrAbove(path, inside.directory)) continue;
        if (inside.made.some((made) => (named.get(made) ?? -1) > inside.index)) return undefined;
        dropped.add(inside.entry);
      }
    }
  }
  return layer.filter((entry) => !dropped.has(entry));
}

/** Whether the path of a whiteout leads through a link of a layer below, possibly into a directory that the layer deletes. */
const mayLeadThroughLink = (layer: RandomLayer, lowers: RandomImage): boolean =>
  layer.some(({ kind }) => kind === 'whiteout') &&
  layer.some((entry) => isDeletion(entry) && leadsThroughLink(lowers, entry));

const isDeletion = ({ kind }: RandomEntry): boolean => kind === 'whiteout' || kind === 'opaque';

/** A whiteout of a bottom layer, changed to delete a missing name. Its parent directories are still made. */
function deletesNothing(entry: RandomEntry): RandomEntry {
  if (!isDeletion(entry)) return entry;
  const parent = entry.kind === 'opaque' ? entry.path : entry.path.slice(0, -1);
  return { ...entry, kind: 'whiteout', path: [...parent, Buffer.from('never there')] };
}

/**
 * For a full copy, in which a whiteout removes files: all whiteouts come before the other entries, those nearer to the root
 * first, also before directories of other whiteouts. If a whiteout lies in a directory that the layer has put in place of
 * another file, this directory is moved with it. At its old place a whiteout stays that deletes a missing name, because it
 * makes its parent directories.
 */
function deletionsFirst(layer: RandomLayer, lowers: RandomImage): RandomLayer | undefined {
  const deletions = sorted(layer.filter(isDeletion));
  const replacing = new Map<string, RandomEntry>();
  for (const [index, entry] of layer.entries()) {
    if (!isDeletion(entry)) continue;
    if (leadsThroughLink(lowers, entry) && layer.slice(0, index).some((other) => isReplacing(lowers, other))) {
      return undefined;
    }
    const directory = key(directoryOf(entry));
    for (const needed of prefixes(directoryOf(entry))) {
      const named = layer.slice(0, index).findLast(({ kind, path }) => kind !== 'whiteout' && key(path) === needed);
      if (named?.kind !== 'directory') continue;
      const isOther = mayBeOther(lowers, needed);
      // files in it inherit its group, but not if they were made earlier
      if (setgid(named) !== 0 && (isOther || needed !== directory)) return undefined;
      if (!isOther) continue;
      replacing.set(needed, named);
    }
  }
  const placed = new Set<string>();
  const first = deletions.flatMap((entry) => {
    const before = prefixes(directoryOf(entry)).flatMap((path) => {
      const named = replacing.get(path);
      if (named === undefined || placed.has(path)) return [];
      placed.add(path);
      return [named];
    });
    return [...before, entry];
  });
  return [...first, ...layer.map(deletesNothing)];
}

/** The directory that an entry lies in; for an opaque marker, the opaque directory. */
const directoryOf = ({ kind, path }: RandomEntry): readonly Buffer[] => (kind === 'opaque' ? path : path.slice(0, -1));

/** Whether the layers may have a file other than a directory at a path. */
const mayBeOther = (layers: RandomImage, wanted: string): boolean =>
  layers.some((layer) =>
    layer.some(
      ({ kind, path }) =>
        kind === 'symlink' || (!['directory', 'whiteout', 'opaque'].includes(kind) && key(path) === wanted),
    ),
  );

/** Whether the layers have a symbolic link on the path to the directory of a whiteout. */
const leadsThroughLink = (layers: RandomImage, entry: RandomEntry): boolean => {
  const needed = prefixes(directoryOf(entry));
  return layers.some((layer) => layer.some(({ kind, path }) => kind === 'symlink' && needed.includes(key(path))));
};

/** Whether an entry is a directory at a path where the layers may have another type of file, possibly through a link. */
const isReplacing = (layers: RandomImage, { kind, path }: RandomEntry): boolean =>
  kind === 'directory' &&
  layers.some((layer) =>
    layer.some((other) => !isDeletion(other) && other.kind !== 'directory' && key(other.path) === key(path)),
  );

function firstOf(layer: RandomLayer, isFirst: (entry: RandomEntry) => boolean): RandomLayer {
  return [...sorted(layer.filter(isFirst)), ...layer.filter((entry) => !isFirst(entry))];
}

const sorted = (entries: RandomEntry[]): RandomEntry[] =>
  entries.sort((one, other) => directoryOf(one).length - directoryOf(other).length);

/**
 * For an overlay: the whiteout of a name that the layer also makes is left out, because the new file hides what is below. A
 * directory is made opaque instead. Directories inside can't get attributes from below then, so the image names them, and
 * containerd does not make them itself.
 */
function forOverlay(layer: RandomLayer, lowers: RandomImage): RandomLayer | undefined {
  const touched = new Set(layer.flatMap(({ kind, path }) => prefixes(kind === 'whiteout' ? path.slice(0, -1) : path)));
  const deleted = new Map(layer.filter(({ kind }) => kind === 'whiteout').map((entry) => [key(entry.path), entry]));
  const isDeleted = (path: string): boolean => prefixesOf(path).some((above) => deleted.has(above));
  const there = new Map<string, RandomEntry | 'unnamed'>();
  const once = new Set<string>();
  const unnamedDirectories = new Set<RandomEntry>();
  /** Directories that another entry has replaced: containerd would give that entry the directory's times. */
  const replaced = new Set<RandomEntry>();
  const equivalent: RandomEntry[] = [];
  for (const entry of layer) {
    const { kind } = entry;
    const path = key(entry.path);
    for (const needed of prefixes(kind === 'opaque' ? entry.path : entry.path.slice(0, -1))) {
      if (there.has(needed)) continue;
      there.set(needed, 'unnamed');
      if (!isDeleted(needed)) continue;
      const above = needed.slice(0, Math.max(0, needed.lastIndexOf('/')));
      const parent = there.get(above);
      const isFromBelow = parent === 'unnamed' && !isDeleted(above);
      const group = isFromBelow ? setgidBelow(lowers, above) : typeof parent === 'object' ? setgid(parent) : 0;
      if (group === undefined) return undefined;
      const unnamed = unnamedDirectory(needed, group);
      unnamedDirectories.add(unnamed);
      equivalent.push(unnamed);
    }
    if (kind === 'hardlink' && deleted.has(linked(entry)) && !there.has(linked(entry))) return undefined;
    if (kind !== 'whiteout') {
      equivalent.push(entry);
    } else if (!touched.has(path) && !once.has(path)) {
      once.add(path);
      equivalent.push(entry);
    }
    if (kind === 'whiteout' || kind === 'opaque') continue;
    if (kind !== 'directory') {
      for (const inside of there.keys()) if (inside.startsWith(`${path}/`)) there.delete(inside);
      for (const unnamed of unnamedDirectories) if (isAtOrAbove(path, key(unnamed.path))) replaced.add(unnamed);
    }
    there.set(path, entry);
  }
  const made = ownTree(layer);
  const opaque = [...deleted]
    .filter(([path]) => (made.get(path) ?? 'other') !== 'other')
    .map(([, entry]): RandomEntry => ({ ...entry, kind: 'opaque' }));
  return [...equivalent.filter((entry) => !replaced.has(entry)), ...opaque];
}

/** The target path of a hard link. */
const linked = ({ target }: RandomEntry): string => linkedPath(target);

/** An entry for a directory like an implied one; its time counts as set by the applier. */
function unnamedDirectory(path: string, gid: number): RandomEntry {
  const names = path.split('/').map((name) => Buffer.from(name, 'latin1'));
  const fields = { mode: 0o755, uid: 0, gid, mtime: Math.ceil(Date.now() / 1000) };
  return { kind: 'directory', path: names, before: '', after: '', target: '', content: '', fields };
}

/** The group that new files in a directory inherit, or 0. */
function setgid({ kind, fields: { mode = 0, gid = 0 } }: RandomEntry): number {
  return kind === 'directory' && (mode & 0o2000) !== 0 ? Number(gid) : 0;
}

/** The same for the directory that the layers leave at `wanted`; `undefined`: links may lead to it. */
function setgidBelow(layers: RandomImage, wanted: string): number | undefined {
  const all = layers.flat();
  if (all.every((entry) => setgid(entry) === 0)) return 0;
  if (all.some(({ kind }) => kind === 'symlink')) return undefined;
  let group = 0;
  for (const [index, layer] of layers.entries()) {
    const hidden = index > 0 && layer.some(({ kind, path }) => kind === 'whiteout' && isAtOrAbove(key(path), wanted));
    const tree = ownTree(layer);
    const replaced = [...tree].some(([path, what]) => what === 'other' && isAtOrAbove(path, wanted));
    const entry = layer.findLast(({ kind, path }) => kind === 'directory' && key(path) === wanted);
    if (tree.get(wanted) === 'named' && entry !== undefined) group = setgid(entry);
    else if (hidden || replaced || isOpaqueAbove(layer, tree, wanted)) group = 0;
  }
  return group;
}

const isAtOrAbove = (path: string, other: string): boolean => path === other || other.startsWith(`${path}/`);

/** Whether an opaque marker hides a directory. Not an implied one: it still gets its attributes from below. */
const isOpaqueAbove = (layer: RandomLayer, tree: ReadonlyMap<string, unknown>, wanted: string): boolean =>
  !tree.has(wanted) && layer.some(({ kind, path }) => kind === 'opaque' && wanted.startsWith(`${key(path)}/`));

const prefixes = (path: readonly Buffer[]): string[] => path.map((_, index) => key(path.slice(0, index + 1)));
const prefixesOf = (path: string): string[] => prefixes(path.split('/').map((name) => Buffer.from(name, 'latin1')));

/** The last entry at each path of a layer without links. */
function ownTree(layer: RandomLayer): Map<string, 'named' | 'implied' | 'other'> {
  const tree = new Map<string, 'named' | 'implied' | 'other'>();
  for (const { kind, path } of layer) {
    const all = prefixes(path);
    const own = kind === 'opaque' ? undefined : all.pop();
    for (const parent of all) if (!tree.has(parent)) tree.set(parent, 'implied');
    if (own === undefined || kind === 'whiteout') continue;
    if (kind !== 'directory') for (const inside of tree.keys()) if (inside.startsWith(`${own}/`)) tree.delete(inside);
    tree.set(own, kind === 'directory' ? 'named' : 'other');
  }
  return tree;
}
