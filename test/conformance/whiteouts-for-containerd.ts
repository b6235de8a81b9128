import type { StoreType } from './conformance.ts';
import { key, type RandomEntry, type RandomImage, type RandomLayer } from './random-image.ts';

/**
 * The image that makes containerd leave what the specification asks for.
 *
 * "A whiteout hides what is below, never what the same layer adds, in whichever order the two come" (OCI image spec,
 * layer.md#whiteouts); containerd goes by the order instead: in an overlay it refuses a layer that deletes and makes the
 * same name, or lets what is below show through; elsewhere it removes what the layer itself has made. So that it can tell
 * what the right tree is, its deletions come where their order does no harm. Layers with links stay as they are: names
 * there may mean each other, and they delete nothing that they make.
 */
export function whiteoutsForContainerd(image: RandomImage, type: StoreType): RandomImage {
  return image.map((layer, index) => {
    if (layer.some(({ kind }) => kind === 'symlink')) return layer;
    if (index === 0) return layer.map(deletesNothing);
    return type === 'overlay' ? forOverlay(layer) : deletionsFirst(layer);
  });
}

/**
 * The image as the native store is asked for it: with opaque markers first. A directory that no entry names, inside one
 * that a marker makes opaque, has the attributes of the one below in an overlay, containerd's too; in a full copy of
 * containerd's it has them or not by the order, and unpackd has them where the marker comes too late to remove it.
 */
export const withOpaqueMarkersFirst = (image: RandomImage): RandomImage =>
  image.map((layer) =>
    layer.some(({ kind }) => kind === 'symlink') ? layer : firstOf(layer, ({ kind }) => kind === 'opaque'),
  );

const isDeletion = ({ kind }: RandomEntry): boolean => kind === 'whiteout' || kind === 'opaque';

/** There is nothing below a bottom layer. The directories that the deletion needs are still made. */
function deletesNothing(entry: RandomEntry): RandomEntry {
  if (!isDeletion(entry)) return entry;
  const parent = entry.kind === 'opaque' ? entry.path : entry.path.slice(0, -1);
  return { ...entry, kind: 'whiteout', path: [...parent, Buffer.from('never there')] };
}

/**
 * In a full copy a deletion removes, so it must come before anything is added, be it the directory that another deletion
 * needs: those nearer to the root first.
 */
const deletionsFirst = (layer: RandomLayer): RandomLayer => firstOf(layer, isDeletion);

function firstOf(layer: RandomLayer, isFirst: (entry: RandomEntry) => boolean): RandomLayer {
  const depth = ({ kind, path }: RandomEntry): number => path.length + (kind === 'opaque' ? 1 : 0);
  const first = layer.filter(isFirst).sort((one, other) => depth(one) - depth(other));
  return [...first, ...layer.filter((entry) => !isFirst(entry))];
}

/** A name that the layer both deletes and makes hides what is below by itself, but for a directory, which is opaque. */
function forOverlay(layer: RandomLayer): RandomLayer {
  const made = ownTree(layer);
  const touched = new Set(layer.flatMap(({ kind, path }) => prefixes(kind === 'whiteout' ? path.slice(0, -1) : path)));
  const deleted = new Map(layer.filter(({ kind }) => kind === 'whiteout').map((entry) => [key(entry.path), entry]));
  // nothing is below these any more that they could take their attributes from, so containerd must not look there
  const first = [...made]
    .filter(([path, what]) => what === 'implied' && prefixesOf(path).some((above) => deleted.has(above)))
    .map(([path]) => unnamedDirectory(path, inheritedGroup(layer, path)))
    .sort((one, other) => one.path.length - other.path.length);
  const last = [...deleted]
    .filter(([path]) => (made.get(path) ?? 'other') !== 'other')
    .map(([, entry]): RandomEntry => ({ ...entry, kind: 'opaque' }));
  const once = new Set<string>();
  const kept = layer.filter((entry) => {
    const path = key(entry.path);
    if (entry.kind !== 'whiteout') return true;
    if (touched.has(path) || once.has(path)) return false;
    once.add(path);
    return true;
  });
  return [...first, ...kept, ...last];
}

/** An entry for a directory as it is made where it is needed; the time counts as the applier's own. */
function unnamedDirectory(path: string, gid: number): RandomEntry {
  const names = path.split('/').map((name) => Buffer.from(name, 'latin1'));
  const fields = { mode: 0o755, uid: 0, gid, mtime: Math.ceil(Date.now() / 1000) };
  return { kind: 'directory', path: names, before: '', after: '', target: '', content: '', fields };
}

/** The group that a directory gets where it is first needed: that of the one above, if its entry came before with setgid. */
function inheritedGroup(layer: RandomLayer, path: string): number {
  const needed = layer.findIndex(({ kind, path: names }) =>
    prefixes(kind === 'opaque' ? names : names.slice(0, -1)).includes(path),
  );
  const above = path.slice(0, Math.max(0, path.lastIndexOf('/')));
  const entry = layer
    .slice(0, needed)
    .findLast(({ kind, path: names }) => kind === 'directory' && key(names) === above);
  return entry !== undefined && ((entry.fields.mode ?? 0) & 0o2000) !== 0 ? Number(entry.fields.gid ?? 0) : 0;
}

const prefixes = (path: readonly Buffer[]): string[] => path.map((_, index) => key(path.slice(0, index + 1)));
const prefixesOf = (path: string): string[] => prefixes(path.split('/').map((name) => Buffer.from(name, 'latin1')));

/** What the layer leaves at each path, where it holds no links. */
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
