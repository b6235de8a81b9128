import { UnpackError } from '../errors.ts';
import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG } from '../system/files.ts';
import { movedContent, writeChunkTable } from './chunks.ts';
import { DirectoryBlocks } from './directory-blocks.ts';
import {
  BLOCK,
  DATA_LAYOUT,
  DATA_START,
  INODE,
  type InodeFields,
  MAX_BLOCKS,
  roundUp,
  SLOT,
  type Superblock,
  writeInode,
} from './format.ts';
import { type IndexPlan, planIndex } from './index-plan.ts';
import { Pieces } from './pieces.ts';
import type { TreeContents } from './tree-contents.ts';
import { writeXattrs, xattrBytes } from './xattr-encoding.ts';

/** Size of the pieces in which the index is written, in bytes. */
const PIECE = 1024 * 1024;

export interface IndexTarget {
  /** Size in bytes of the tar that lies in this file, from DATA_START on; 0 if it lies in `device`. */
  readonly tarBytes: number;
  /** The layer file in which the tar lies, if it is not this file. It is mounted together with this file. */
  readonly device?: { readonly blocks: number } | undefined;
  /** Writes the next bytes behind the tar. They are valid only during the call. */
  write(bytes: Buffer): void;
  /** Reads from the tar. @param offset in the tar */
  read(offset: number, into: Buffer): void;
  /** Called for every file and directory. It throws if the layer must be aborted. */
  checkpoint(): void;
}

/**
 * Writes what makes an EROFS image of a tar, behind the tar, or into a file of its own: chunks that the tar does not have as whole blocks, inodes,
 * directories, long targets of symbolic links.
 * @returns the fields of the superblock
 * @throws UnpackError LIMIT_EXCEEDED; the errors of `target`
 */
export function writeIndex(tree: TreeContents, target: IndexTarget): Omit<Superblock, 'uuid'> {
  const plan = planIndex(tree, target.checkpoint);
  const places = placesOf(plan, target);
  const output = new Pieces(target.write, PIECE);
  output.fillTo(roundUp(target.tarBytes, BLOCK) - target.tarBytes);
  for (const chunks of plan.chunked.values()) {
    for (const number of chunks.moved) output.append(movedContent(chunks, number, target.read));
  }
  writeInodes(tree, plan, places, output, target.checkpoint);
  writeDirectories(tree, plan, output, target.checkpoint);
  for (const link of plan.longLinks) {
    const { buffer, at } = output.reserve(roundUp(tree.sizeOf(link), BLOCK));
    tree.targetOf(link).copy(buffer, at);
  }
  output.end();
  return {
    inodes: plan.order.length,
    blocks: places.end,
    indexBlock: places.index,
    tarBytes: target.tarBytes,
    chunked: plan.chunked.size > 0,
    device: target.device === undefined ? undefined : { blocks: target.device.blocks, address: places.end },
  };
}

/** Where the parts of the index lie, in blocks from the start of the file. */
interface Places {
  readonly moved: number;
  readonly index: number;
  readonly directories: number;
  readonly end: number;
  /** Where the tar begins. The blocks of the device follow those of this file. */
  readonly tar: number;
}

/** @throws UnpackError LIMIT_EXCEEDED */
function placesOf({ movedBlocks, inodeBlocks, directoryBlocks }: IndexPlan, { tarBytes, device }: IndexTarget): Places {
  const start = DATA_START / BLOCK;
  const moved = start + Math.ceil(tarBytes / BLOCK);
  const index = moved + movedBlocks;
  const directories = index + inodeBlocks;
  const end = directories + directoryBlocks;
  const all = end + (device?.blocks ?? 0);
  if (all >= MAX_BLOCKS) {
    throw new UnpackError(
      'LIMIT_EXCEEDED',
      `its file would have ${all * BLOCK} bytes, and an EROFS image can have 2 TiB; use the overlay store for this image`,
    );
  }
  return { moved, index, directories, end, tar: device === undefined ? start : end + start };
}

function writeInodes(
  tree: TreeContents,
  plan: IndexPlan,
  places: Places,
  output: Pieces,
  checkpoint: () => void,
): void {
  const start = output.position;
  let moved = places.moved;
  for (const [written, inode] of plan.order.entries()) {
    checkpoint();
    output.fillTo(start + (plan.nid[inode] ?? 0) * SLOT);
    const xattrs = tree.xattrsOf(inode);
    const header = INODE + xattrBytes(xattrs);
    const chunks = plan.chunked.get(inode);
    const { fields, target } = contentFields(tree, plan, places, inode, header);
    const { buffer, at } = output.reserve(header + (target?.length ?? chunks?.tableBytes ?? 0));
    writeInode(buffer, at, {
      xattrBytes: header - INODE,
      mode: tree.modeOf(inode),
      number: written + 1,
      uid: tree.uidOf(inode),
      gid: tree.gidOf(inode),
      ...tree.mtimeOf(inode),
      links: tree.linksOf(inode),
      ...fields,
    });
    if (header > INODE) writeXattrs(buffer, at + INODE, xattrs);
    target?.copy(buffer, at + header);
    if (chunks !== undefined) {
      moved = writeChunkTable(buffer, at + header, chunks, places.tar, moved);
    }
  }
  output.fillTo(start + plan.inodeBlocks * BLOCK);
}

/** The fields of an inode that tell where its content is, and the target of a link that lies beside its inode. */
function contentFields(
  tree: TreeContents,
  plan: IndexPlan,
  places: Places,
  inode: number,
  header: number,
): { readonly fields: Pick<InodeFields, 'layout' | 'size' | 'start'>; readonly target?: Buffer } {
  const size = tree.sizeOf(inode);
  switch (tree.typeOf(inode)) {
    case S_IFREG: {
      const chunks = plan.chunked.get(inode);
      if (chunks !== undefined) return { fields: { layout: DATA_LAYOUT.chunks, size, start: chunks.shift } };
      const start = size === 0 ? 0 : places.tar + tree.startOf(inode) / BLOCK;
      return { fields: { layout: DATA_LAYOUT.plain, size, start } };
    }
    case S_IFDIR: {
      const start = places.directories + (plan.blocks[inode] ?? 0);
      return { fields: { layout: DATA_LAYOUT.plain, size: plan.directorySizes.get(inode) ?? 0, start } };
    }
    case S_IFLNK: {
      if (header + size > BLOCK) {
        const start = places.directories + (plan.blocks[inode] ?? 0);
        return { fields: { layout: DATA_LAYOUT.plain, size, start } };
      }
      return { fields: { layout: DATA_LAYOUT.inline, size, start: 0 }, target: tree.targetOf(inode) };
    }
    case S_IFCHR:
    case S_IFBLK:
      return { fields: { layout: DATA_LAYOUT.plain, size: 0, start: tree.deviceOf(inode) } };
    default:
      return { fields: { layout: DATA_LAYOUT.plain, size: 0, start: 0 } };
  }
}

function writeDirectories(tree: TreeContents, plan: IndexPlan, output: Pieces, checkpoint: () => void): void {
  const blocks = new DirectoryBlocks(tree);
  const nid = (inode: number): number => plan.nid[inode] ?? 0;
  for (const directory of plan.directories) {
    checkpoint();
    const { buffer, at } = output.reserve(roundUp(plan.directorySizes.get(directory) ?? 0, BLOCK));
    blocks.write(directory, buffer, at, nid);
  }
}
