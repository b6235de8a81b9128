import { lchownSync, lstatSync } from 'node:fs';
import { brokenState } from './admission.ts';
import type { SnapshotDirectories, Staged } from './directories.ts';
import type { Entry } from './entries.ts';
import type { Layout } from './layout.ts';
import type { Metadata, NewSnapshot } from './metadata.ts';
import { SnapshotError, type Usage } from './snapshotter.ts';
import { syncDirectoryNow } from './tree.ts';

/**
 * What a snapshot takes from its parent: the tree in a native store, the owner of the root, the size. SnapshotStore calls it
 * when it makes a snapshot and when it commits one.
 */
export class Parents {
  readonly #layout: Layout;
  readonly #metadata: Metadata;
  readonly #directories: SnapshotDirectories;

  constructor(layout: Layout, metadata: Metadata, directories: SnapshotDirectories) {
    this.#layout = layout;
    this.#metadata = metadata;
    this.#directories = directories;
  }

  /**
   * Marks a parent as broken if its directory is not there any more, or not its own.
   * @throws NotFound if so: then the caller makes the parent again
   */
  async requireWhole({ id, info }: Entry): Promise<void> {
    const broken = brokenState(this.#directories.own(id), this.#metadata.identity, info.kind, info.name);
    if (broken === undefined) return;
    await this.#metadata.markBroken(id, broken);
    throw new SnapshotError(
      'NotFound',
      `snapshot ${info.name} is broken: its directory ${this.#directories.path(id)} is ${broken}`,
    );
  }

  /**
   * Fills the directory of a new snapshot. In a native store, the tree of the parent is copied.
   * @throws NotFound if the parent is removed during the copy; as `Layout.fill`
   */
  async fill(
    staged: Staged,
    { kind, parent }: NewSnapshot,
    parentId: number | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    if (parentId === undefined) return this.#layout.fill(staged, kind, undefined, signal);
    try {
      await this.#layout.fill(staged, kind, this.#directories.tree(parentId), signal);
    } catch (error) {
      signal.throwIfAborted();
      // if the parent was removed during the copy, report that instead of the copier's error
      const now = await this.#metadata.stat(parent).catch(() => undefined);
      throw now?.id === parentId ? error : parentGone(parent);
    }
  }

  /** Gives a tree's root the owner of the parent's root. @returns whether the owner has changed */
  giveOwner(parentId: number, tree: string): boolean {
    const { uid, gid } = lstatSync(this.#directories.own(parentId, 'fs'));
    const own = lstatSync(tree);
    if (own.uid === uid && own.gid === gid) return false;
    lchownSync(tree, uid, gid);
    return true;
  }

  /**
   * Changes a snapshot that gets its parent at the commit. Call it inside the transaction.
   * @throws InvalidArgument if the store cannot do this
   */
  rebase(key: string, id: number, parentId: number): void {
    const { type, rebase } = this.#layout;
    if (!rebase) {
      throw new SnapshotError('InvalidArgument', `a ${type} store can't give ${key} a parent at its commit`);
    }
    // the writer of the layer has already flushed the tree, so this change needs a flush of its own
    const tree = this.#directories.own(id, 'fs');
    if (this.giveOwner(parentId, tree)) syncDirectoryNow(tree);
  }

  /** The size of a snapshot whose layer added `added`. @returns `undefined` if it holds a copy of a parent without a size */
  async sizeWith(parent: string, added: Usage): Promise<Usage | undefined> {
    const copies = !this.#layout.rebase && parent !== '';
    const below = copies ? (await this.#metadata.stat(parent)).info.size : { bytes: 0, inodes: 0 };
    if (below === undefined) return undefined;
    // what the layer added can be negative, because replaced files are subtracted
    const sum = (one: number, other: number) => Math.max(0, one + other);
    return { bytes: sum(below.bytes, added.bytes), inodes: sum(below.inodes, added.inodes) };
  }
}

export function parentGone(parent: string): SnapshotError {
  return new SnapshotError('NotFound', `snapshot ${parent} was removed while another was prepared on it`);
}
