import { S_IFDIR, S_IFLNK, S_IFREG } from '../system/files.ts';
import { type Chunks, chunksOf, movedBlocks } from './chunks.ts';
import { DirectoryBlocks } from './directory-blocks.ts';
import { BLOCK, INODE, ROOT_NID, roundUp, SLOT } from './format.ts';
import type { TreeContents } from './tree-contents.ts';
import { xattrBytes } from './xattr-encoding.ts';

/** What an index consists of, and where each part lies. `writeIndex` writes it in this order. */
export interface IndexPlan {
  /** The inodes that a directory names, in the order in which they are written. */
  readonly order: Int32Array;
  /** By inode: its number in the image. 0: it is not written. */
  readonly nid: Uint32Array;
  /** The directories in the order of their blocks. */
  readonly directories: Int32Array;
  /** By inode: the first block of a directory or of a long target, from the start of the directories on. */
  readonly blocks: Uint32Array;
  /** By inode: size of a directory in bytes. */
  readonly directorySizes: ReadonlyMap<number, number>;
  /** Files with holes. */
  readonly chunked: ReadonlyMap<number, Chunks>;
  /** Symbolic links whose targets do not fit beside the inode. */
  readonly longLinks: readonly number[];
  /** Number of blocks of each part. */
  readonly movedBlocks: number;
  readonly inodeBlocks: number;
  readonly directoryBlocks: number;
}

/**
 * Plans the index of a layer. All files of a directory get their inodes one after the other, so that listing a directory reads
 * one place. The order depends on the layer alone.
 * @param checkpoint called for every file and directory
 * @throws UnpackError LIMIT_EXCEEDED; the errors of `checkpoint`
 */
export function planIndex(tree: TreeContents, checkpoint: () => void): IndexPlan {
  const plan = new Planner(tree);
  const blocks = new DirectoryBlocks(tree);
  plan.place(tree.root);
  const open = [tree.root];
  for (let directory = open.pop(); directory !== undefined; directory = open.pop()) {
    checkpoint();
    const below: number[] = [];
    for (const entry of tree.entriesOf(directory)) {
      const inode = tree.inodeOf(entry);
      if (plan.has(inode)) continue;
      checkpoint();
      if (plan.place(inode)) below.push(inode);
    }
    plan.directory(directory, blocks.size(directory));
    open.push(...below.reverse());
  }
  return plan.finish();
}

class Planner {
  readonly #tree: TreeContents;
  readonly #order: Int32Array;
  readonly #nid: Uint32Array;
  readonly #blocks: Uint32Array;
  readonly #directories: number[] = [];
  readonly #directorySizes = new Map<number, number>();
  readonly #chunked = new Map<number, Chunks>();
  readonly #longLinks: number[] = [];
  #count = 0;
  /** Where the next inode can begin, in bytes from the start of the index. */
  #end = ROOT_NID * SLOT;
  #directoryBlocks = 0;
  #movedBlocks = 0;

  constructor(tree: TreeContents) {
    this.#tree = tree;
    const count = tree.inodeRows;
    this.#order = new Int32Array(count);
    this.#nid = new Uint32Array(count);
    this.#blocks = new Uint32Array(count);
  }

  /** Whether an inode has its place, because another name led to it before. */
  has(inode: number): boolean {
    return this.#nid[inode] !== 0;
  }

  /** Gives an inode its place. @returns whether it is a directory */
  place(inode: number): boolean {
    const type = this.#tree.typeOf(inode);
    const bytes = INODE + xattrBytes(this.#tree.xattrsOf(inode));
    let after = 0;
    if (type === S_IFLNK) {
      const target = this.#tree.sizeOf(inode);
      if (bytes + target > BLOCK) this.#longLinks.push(inode);
      else {
        // the target must be in the same block as the inode
        if ((this.#end % BLOCK) + bytes + target > BLOCK) this.#end = roundUp(this.#end, BLOCK);
        after = target;
      }
    } else if (type === S_IFREG && this.#tree.startOf(inode) < 0) {
      after = this.#placeChunks(inode);
    }
    this.#order[this.#count++] = inode;
    this.#nid[inode] = this.#end / SLOT;
    this.#end = roundUp(this.#end + bytes + after, SLOT);
    return type === S_IFDIR;
  }

  /** @returns the size of the table that follows the inode, in bytes */
  #placeChunks(inode: number): number {
    const chunks = chunksOf(this.#tree.extentsOf(inode), this.#tree.sizeOf(inode));
    this.#chunked.set(inode, chunks);
    for (const number of chunks.moved) this.#movedBlocks += movedBlocks(chunks, number);
    return chunks.tableBytes;
  }

  directory(inode: number, size: number): void {
    this.#directories.push(inode);
    this.#directorySizes.set(inode, size);
    this.#blocks[inode] = this.#directoryBlocks;
    this.#directoryBlocks += Math.ceil(size / BLOCK);
  }

  finish(): IndexPlan {
    let block = this.#directoryBlocks;
    for (const link of this.#longLinks) {
      this.#blocks[link] = block;
      block += Math.ceil(this.#tree.sizeOf(link) / BLOCK);
    }
    return {
      order: this.#order.subarray(0, this.#count),
      nid: this.#nid,
      directories: Int32Array.from(this.#directories),
      blocks: this.#blocks,
      directorySizes: this.#directorySizes,
      chunked: this.#chunked,
      longLinks: this.#longLinks,
      movedBlocks: this.#movedBlocks,
      inodeBlocks: Math.ceil(this.#end / BLOCK),
      directoryBlocks: block,
    };
  }
}
