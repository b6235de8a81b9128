import { fstatSync } from 'node:fs';
import { UnpackError } from '../errors.ts';
import { LruCache } from '../lru-cache.ts';
import { deviceNumbers, type FileStatus, S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT } from '../system/files.ts';
import { BLOCK, DATA_LAYOUT, DATA_START, DIRENT, INODE, ROOT_NID, readInode, readSuperblock, SLOT } from './format.ts';
import { readWhole } from './image-file.ts';
import { readXattrs } from './xattr-encoding.ts';

/** What is read at once, and kept for the next call. */
const WINDOW = 64 * 1024;
/** Maximum bytes of windows that are kept. */
const KEPT = 4 * 1024 * 1024;

/** An entry of a directory. */
export interface ImageEntry {
  readonly name: Buffer;
  /** The number of the inode. */
  readonly nid: number;
}

/**
 * Reads directories, attributes and links of an image that `writeIndex` has made, without a mount. The kernel is not asked, so
 * it need not know EROFS. Files of the image are named by the numbers of their inodes.
 */
export class ImageReader {
  readonly root = ROOT_NID;
  readonly #fd: number;
  readonly #path: string;
  readonly #index: number;
  readonly #end: number;
  readonly #windows = new LruCache<Buffer>(KEPT, (window) => window.length);

  /**
   * @param fd an open file, which the caller closes after the last call
   * @param path of the file, for messages
   * @throws UnpackError STORE_FAILED if it is not such an image; system errors
   */
  constructor(fd: number, path: string) {
    this.#fd = fd;
    this.#path = path;
    this.#end = fstatSync(fd).size;
    const page = this.#read(0, DATA_START);
    const superblock = readSuperblock(page);
    if (superblock === undefined) throw this.#damaged('its superblock is not that of an image of unpackd');
    this.#index = superblock.indexBlock * BLOCK;
  }

  status(nid: number): FileStatus {
    const { fields } = this.#inode(nid);
    const { mode, uid, gid, size, links } = fields;
    const type = mode & S_IFMT;
    const isDevice = type === S_IFCHR || type === S_IFBLK;
    const { major, minor } = isDevice ? deviceNumbers(fields.start) : { major: 0, minor: 0 };
    const time = { seconds: fields.seconds, nanoseconds: fields.nanoseconds };
    const allocated = Math.ceil(size / BLOCK) * BLOCK;
    return { mode, uid, gid, inode: BigInt(nid), links, size, allocated, major, minor, atime: time, mtime: time };
  }

  xattrs(nid: number): Map<string, Buffer> {
    const { at, fields } = this.#inode(nid);
    if (fields.xattrBytes === 0) return new Map();
    try {
      return readXattrs(this.#read(at + INODE, fields.xattrBytes));
    } catch (error) {
      if (error instanceof RangeError) throw this.#damaged(`the extended attributes of inode ${nid} are wrong`);
      throw error;
    }
  }

  /** The target of a symbolic link. */
  target(nid: number): Buffer {
    const { at, fields } = this.#inode(nid);
    if ((fields.mode & S_IFMT) !== S_IFLNK) throw this.#damaged(`inode ${nid} is not a symbolic link`);
    const isInline = fields.layout === DATA_LAYOUT.inline;
    return this.#read(isInline ? at + INODE + fields.xattrBytes : fields.start * BLOCK, fields.size);
  }

  /** The inode that `name` has in a directory; `undefined` if there is none. */
  find(directory: number, name: Buffer): number | undefined {
    const { start, size } = this.#directory(directory);
    let [low, high] = [0, Math.ceil(size / BLOCK) - 1];
    while (low <= high) {
      const middle = (low + high) >> 1;
      const entries = this.#block(start, size, middle);
      const [first] = entries;
      const last = entries.at(-1);
      if (first === undefined || last === undefined) throw this.#damaged(`directory ${directory} has an empty block`);
      if (Buffer.compare(name, first.name) < 0) high = middle - 1;
      else if (Buffer.compare(name, last.name) > 0) low = middle + 1;
      else return entries.find((entry) => entry.name.equals(name))?.nid;
    }
    return undefined;
  }

  /** The entries of a directory in order, without `.` and `..`. */
  *entries(directory: number): Generator<ImageEntry> {
    const { start, size } = this.#directory(directory);
    for (let block = 0; block * BLOCK < size; block++) {
      for (const entry of this.#block(start, size, block)) if (!isDots(entry.name)) yield entry;
    }
  }

  /** The directory that contains a directory. */
  parent(directory: number): number {
    const parent = this.find(directory, Buffer.from('..'));
    if (parent === undefined) throw this.#damaged(`directory ${directory} has no entry ".."`);
    return parent;
  }

  #directory(nid: number): { readonly start: number; readonly size: number } {
    const { fields } = this.#inode(nid);
    if ((fields.mode & S_IFMT) !== S_IFDIR) throw this.#damaged(`inode ${nid} is not a directory`);
    return fields;
  }

  #inode(nid: number): { readonly at: number; readonly fields: ReturnType<typeof readInode> } {
    const at = this.#index + nid * SLOT;
    return { at, fields: readInode(this.#read(at, INODE), 0) };
  }

  /** The entries of one block of a directory. */
  #block(start: number, size: number, number: number): ImageEntry[] {
    const length = Math.min(BLOCK, size - number * BLOCK);
    const block = this.#read((start + number) * BLOCK, length);
    const names = length < DIRENT ? 0 : block.readUInt16LE(8);
    if (names === 0 || names % DIRENT !== 0 || names >= length) throw this.#damaged('a block of a directory is wrong');
    const entries: ImageEntry[] = [];
    for (let at = 0; at < names; at += DIRENT) {
      const from = block.readUInt16LE(at + 8);
      const next = at + DIRENT < names ? block.readUInt16LE(at + DIRENT + 8) : length;
      if (from >= next || next > length) throw this.#damaged('the names of a directory are wrong');
      const name = block.subarray(from, next);
      const end = name.indexOf(0);
      entries.push({ name: end < 0 ? name : name.subarray(0, end), nid: block.readUInt32LE(at) });
    }
    return entries;
  }

  /** @throws UnpackError STORE_FAILED behind the end of the file */
  #read(at: number, length: number): Buffer {
    if (at < 0 || at + length > this.#end) throw this.#damaged(`it ends before byte ${at + length}`);
    const first = Math.floor(at / WINDOW);
    const from = at - first * WINDOW;
    if (from + length <= WINDOW) return this.#window(first).subarray(from, from + length);
    const bytes = Buffer.alloc(length);
    readWhole(this.#fd, at, bytes);
    return bytes;
  }

  #window(number: number): Buffer {
    const key = String(number);
    const kept = this.#windows.get(key);
    if (kept !== undefined) return kept;
    const window = Buffer.alloc(Math.min(WINDOW, this.#end - number * WINDOW));
    readWhole(this.#fd, number * WINDOW, window);
    this.#windows.add(key, window);
    return window;
  }

  #damaged(why: string): UnpackError {
    return new UnpackError(
      'STORE_FAILED',
      `${this.#path} is damaged: ${why}; run unpackd verify, and then unpackd repair`,
    );
  }
}

const DOT = 0x2e;

function isDots(name: Buffer): boolean {
  return name[0] === DOT && (name.length === 1 || (name.length === 2 && name[1] === DOT));
}
