import { setImmediate as nextTurn } from 'node:timers/promises';
import { throwIfAborted } from '../errors.ts';
import type { Mount } from '../snapshots/snapshotter.ts';
import { chownAt, cString, statAt, statFd } from '../system/files.ts';
import { type Checkpoint, GO_ON } from './checkpoint.ts';
import { closeDirectories, type DirectoryMode, keepsOwnerOut, openDirectories } from './directory-modes.ts';
import type { ImpliedDirectory } from './implied-directories.ts';
import { copyAttributes, Models } from './models.ts';
import { splitPath } from './paths.ts';
import { Root } from './root.ts';

/**
 * Gives the directories that a layer needed and never named the owner, mode, times and attributes of the same directory
 * in the nearest layer below, as overlayfs would when it copies one up. Where none has it, or the nearest has something
 * else there, or the layer deletes it, it stays as it was made: 0755. A directory that a later entry named only takes the
 * extended attributes that the entry does not give, since containerd copied them before it came to that entry.
 *
 * This is done once everything is written, and in the same way whether the layers below were there from the start or
 * came later, so that the order in which layers are applied leaves no trace. What it can't do any more is to pass a
 * default ACL on to what was made in such a directory; the layer must be written once more then.
 * @param lowers directories of the layers below, nearest first
 * @param modes where owners are not kept: directories that get modes which would keep their own owner out
 * @param checkpoint called for each of them
 * @returns whether one of them has a default ACL from below
 */
export function settleImpliedDirectories(
  rootPath: string,
  implied: readonly ImpliedDirectory[],
  lowers: readonly string[],
  modes?: readonly DirectoryMode[],
  checkpoint: Checkpoint = GO_ON,
): boolean {
  const steps = settling(rootPath, implied, lowers, modes);
  for (;;) {
    const { done, value } = steps.next();
    if (done === true) return value;
    checkpoint();
  }
}

/** Milliseconds that a thread which has other things to do is kept from them. */
const TURN = 20;

/** The same on a thread that has other things to do, a few directories at a time: a layer may need millions. */
export async function settleInTurns(
  rootPath: string,
  implied: readonly ImpliedDirectory[],
  lowers: readonly string[],
  modes: readonly DirectoryMode[] | undefined,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const steps = settling(rootPath, implied, lowers, modes);
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

function* settling(
  rootPath: string,
  implied: readonly ImpliedDirectory[],
  lowers: readonly string[],
  modes: readonly DirectoryMode[] | undefined,
): Generator<void, boolean> {
  const nothing = implied.length === 0 || lowers.length === 0;
  if (nothing && (modes === undefined || modes.length === 0)) return false;
  using stack = new DisposableStack();
  const root = stack.use(new Root(rootPath));
  if (nothing) {
    yield* closeDirectories(root, modes ?? []);
    return false;
  }
  // they may have been closed before, by a thread that did not know the layers below yet
  if (modes !== undefined) yield* openDirectories(root, modes);
  const closing = modes === undefined ? undefined : [...modes];
  const models = stack.use(new Models(lowers));
  let inherits = false;
  /** What a directory would have inherited from the one above, had that been set-group-ID from the start. */
  const groups = new Map<string, number>();
  for (const { path, inode, given, inUnnamed, timed, deleted } of implied) {
    yield;
    const bytes = Buffer.from(path, 'latin1');
    const { parent, name } = splitPath(bytes);
    const cName = cString(name);
    const model = deleted ? undefined : models.find(bytes);
    const modelStatus = model === undefined ? undefined : statFd(model);
    if (modelStatus !== undefined && (modelStatus.mode & S_ISGID) !== 0) groups.set(path, modelStatus.gid);
    const directory = root.directory(parent);
    const status = statAt(directory, cName);
    if (status?.inode !== inode) continue;
    const group = inUnnamed ? groups.get(parent.toString('latin1')) : undefined;
    if (model !== undefined && modelStatus !== undefined) {
      const { atime, mtime } = timed ? status : modelStatus;
      const from = given === undefined ? { ...modelStatus, atime, mtime } : status;
      const rules = { place: rootPath, except: given ?? [], squash: closing !== undefined };
      if (copyAttributes(model, directory, cName, from, rules)) inherits = true;
      if (given === undefined && keepsOwnerOut(from.mode)) closing?.push({ path, inode, mode: from.mode & 0o7777 });
    } else if (given === undefined && closing === undefined && group !== undefined) {
      chownAt(directory, cName, status.uid, group);
    }
  }
  if (closing !== undefined) yield* closeDirectories(root, closing);
  return inherits;
}

const S_ISGID = 0o2000;

/** The directories of the layers that a view shows, nearest first. */
export function lowerDirectories(mounts: readonly Mount[]): string[] {
  return mounts.flatMap((mount) => {
    if (mount.type === 'bind') return [mount.source];
    const lowers = mount.options.find((option) => option.startsWith('lowerdir='));
    return lowers?.slice('lowerdir='.length).split(':') ?? [];
  });
}
