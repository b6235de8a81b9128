import { type FileStatus, S_IFMT, S_IFREG } from '../system/files.ts';

/** Most file systems allocate in blocks of this size. */
const BLOCK = 4096;

const blocksOf = (bytes: number): number => Math.ceil(bytes / BLOCK) * BLOCK;

/** What a layer adds to the disk, as `AddedFiles` counts it. */
export interface AddedUsage {
  /** Contents of files in whole blocks, and one block for each directory. */
  readonly bytes: number;
  /** A file with several hard links counts once. */
  readonly inodes: number;
}

/**
 * Counts what `LayerWriter` creates, without asking the file system. The result is an estimate: file systems store small
 * directories and files in the inode (XFS, Btrfs), need blocks for long links and attributes (ext4), or compress. A file that
 * a later entry replaces is subtracted. The content of directories that the layer removes is not.
 */
export class AddedFiles {
  private bytes = 0;
  private inodes = 0;

  /** A file with this many bytes of data, without its holes. */
  file(data: number): void {
    this.inodes += 1;
    this.bytes += blocksOf(data);
  }

  directory(): void {
    this.inodes += 1;
    this.bytes += BLOCK;
  }

  /** A symbolic link, a device, a FIFO or a whiteout, which has no content. */
  node(): void {
    this.inodes += 1;
  }

  /**
   * An entry replaces a file that is not a directory. In a full copy the file can be from the layers below, so the counts can
   * become negative.
   */
  replaced({ mode, links, size, allocated }: FileStatus): void {
    if (links > 1) return;
    this.inodes -= 1;
    if ((mode & S_IFMT) === S_IFREG) this.bytes -= Math.min(blocksOf(size), allocated);
  }

  get usage(): AddedUsage {
    return { bytes: this.bytes, inodes: this.inodes };
  }
}
