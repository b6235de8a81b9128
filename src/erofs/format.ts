/**
 * The parts of an EROFS image that have a fixed layout (Linux, fs/erofs/erofs_fs.h). All numbers are little endian. Blocks have
 * 512 bytes, so that a file's content can stay where it lies in a tar (Linux 6.4).
 */

const BLOCK_BITS = 9;
export const BLOCK = 1 << BLOCK_BITS;
/** Where the superblock lies, in bytes. */
const SUPERBLOCK_OFFSET = 1024;
/** Where the tar begins in a layer file, in bytes: after the page of the superblock. */
export const DATA_START = 4096;
/** Inodes are numbered in units of 32 bytes from the start of the index. */
export const SLOT = 32;
/** The number of the root directory. Numbers begin above 0, because programs take an entry with the inode number 0 for deleted. */
export const ROOT_NID = 2;
/** Size of an inode in its extended form, without extended attributes. */
export const INODE = 64;
/** Size of a directory entry, without its name. */
export const DIRENT = 12;
/** Number of blocks that addresses of 32 bits can name. The largest address stands for a hole. */
export const MAX_BLOCKS = 0xffffffff;

/** The first bytes of a layer file. Linux leaves the first 1,024 bytes of an image to others; the size of the tar follows. */
const LAYER_MAGIC = Buffer.from('unpackd1');
const MAGIC = 0xe0f5e1e2;
const COMPAT_CHECKSUM = 1;
const COMPAT_MTIME = 2;
const INCOMPAT_CHUNKED_FILE = 4;
const INCOMPAT_DEVICE_TABLE = 8;
/** Size of a slot in the table of devices, and where the only one lies. */
const DEVICE_SLOT = 128;
const DEVICE_SLOT_AT = 2048;

/** How the content of an inode is stored. */
export const DATA_LAYOUT = { plain: 0, inline: 2, chunks: 4 } as const;

const EXTENDED = 1;

export interface InodeFields {
  readonly layout: (typeof DATA_LAYOUT)[keyof typeof DATA_LAYOUT];
  /** Size of the encoded extended attributes in bytes, a multiple of 4. */
  readonly xattrBytes: number;
  readonly mode: number;
  readonly size: number;
  /** Block address, device number or chunk format. */
  readonly start: number;
  /** Number for programs with 32-bit inode numbers. */
  readonly number: number;
  readonly uid: number;
  readonly gid: number;
  readonly seconds: number;
  readonly nanoseconds: number;
  readonly links: number;
}

/** Writes the 64 bytes of an inode. */
export function writeInode(to: Buffer, at: number, fields: InodeFields): void {
  const { xattrBytes, size, seconds } = fields;
  to.writeUInt16LE(EXTENDED | (fields.layout << 1), at);
  to.writeUInt16LE(xattrBytes === 0 ? 0 : 1 + (xattrBytes - XATTR_HEADER) / 4, at + 2);
  to.writeUInt16LE(fields.mode, at + 4);
  write64(to, at + 8, size);
  to.writeUInt32LE(fields.start, at + 16);
  to.writeUInt32LE(fields.number, at + 20);
  to.writeUInt32LE(fields.uid, at + 24);
  to.writeUInt32LE(fields.gid, at + 28);
  write64(to, at + 32, seconds);
  to.writeUInt32LE(fields.nanoseconds, at + 40);
  to.writeUInt32LE(fields.links, at + 44);
}

/** Reads what `writeInode` has written. */
export function readInode(from: Buffer, at: number): InodeFields {
  const units = from.readUInt16LE(at + 2);
  return {
    // `as`: a reader checks the layout where it uses it
    layout: ((from.readUInt16LE(at) >> 1) & 7) as InodeFields['layout'],
    xattrBytes: units === 0 ? 0 : XATTR_HEADER + (units - 1) * 4,
    mode: from.readUInt16LE(at + 4),
    size: read64(from, at + 8),
    start: from.readUInt32LE(at + 16),
    number: from.readUInt32LE(at + 20),
    uid: from.readUInt32LE(at + 24),
    gid: from.readUInt32LE(at + 28),
    seconds: read64(from, at + 32),
    nanoseconds: from.readUInt32LE(at + 40),
    links: from.readUInt32LE(at + 44),
  };
}

/** Size of the header before the extended attributes of an inode. */
export const XATTR_HEADER = 12;

/** A signed number of 64 bits. @param value an integer below 2^53 */
function write64(to: Buffer, at: number, value: number): void {
  const low = value >>> 0;
  to.writeUInt32LE(low, at);
  to.writeInt32LE((value - low) / 0x1_0000_0000, at + 4);
}

const read64 = (from: Buffer, at: number): number => from.readInt32LE(at + 4) * 0x1_0000_0000 + from.readUInt32LE(at);

export interface Superblock {
  /** Number of inodes. */
  readonly inodes: number;
  /** Size of the whole image in blocks. */
  readonly blocks: number;
  /** Where the index begins, in blocks. */
  readonly indexBlock: number;
  readonly uuid: Uint8Array;
  /** Size of the tar in bytes. */
  readonly tarBytes: number;
  /** Whether a file consists of chunks. */
  readonly chunked: boolean;
  /** Another file that has content of this image: its size, and the address of its first block. */
  readonly device: Device | undefined;
}

export interface Device {
  readonly blocks: number;
  readonly address: number;
}

/** The first DATA_START bytes of an image. */
export function superblockPage({ inodes, blocks, indexBlock, uuid, tarBytes, chunked, device }: Superblock): Buffer {
  const page = Buffer.alloc(DATA_START);
  LAYER_MAGIC.copy(page);
  write64(page, LAYER_MAGIC.length, tarBytes);
  const at = SUPERBLOCK_OFFSET;
  page.writeUInt32LE(MAGIC, at);
  page.writeUInt32LE(COMPAT_CHECKSUM | COMPAT_MTIME, at + 8);
  page[at + 12] = BLOCK_BITS;
  page.writeUInt16LE(ROOT_NID, at + 14);
  write64(page, at + 16, inodes);
  page.writeUInt32LE(blocks, at + 36);
  page.writeUInt32LE(indexBlock, at + 40);
  page.set(uuid.subarray(0, 16), at + 48);
  page.writeUInt32LE(
    (chunked ? INCOMPAT_CHUNKED_FILE : 0) | (device === undefined ? 0 : INCOMPAT_DEVICE_TABLE),
    at + 80,
  );
  if (device !== undefined) {
    page.writeUInt16LE(1, at + 86);
    page.writeUInt16LE(DEVICE_SLOT_AT / DEVICE_SLOT, at + 88);
    page.writeUInt32LE(device.blocks, DEVICE_SLOT_AT + 64);
    page.writeUInt32LE(device.address, DEVICE_SLOT_AT + 68);
  }
  // over one block from the superblock on, with the field itself 0
  page.writeUInt32LE(crc32c(page.subarray(at, at + BLOCK)), at + 4);
  return page;
}

/**
 * Reads what `superblockPage` has written.
 * @returns `undefined` if it is not a superblock of this format, or its checksum is wrong
 */
export function readSuperblock(page: Buffer): Superblock | undefined {
  const at = SUPERBLOCK_OFFSET;
  const block = Buffer.from(page.subarray(at, at + BLOCK));
  const checksum = block.readUInt32LE(4);
  block.writeUInt32LE(0, 4);
  const isOurs = block.readUInt32LE(0) === MAGIC && block[12] === BLOCK_BITS && block.readUInt16LE(14) === ROOT_NID;
  if (!isOurs || !page.subarray(0, LAYER_MAGIC.length).equals(LAYER_MAGIC) || crc32c(block) !== checksum)
    return undefined;
  return {
    inodes: read64(block, 16),
    blocks: block.readUInt32LE(36),
    indexBlock: block.readUInt32LE(40),
    uuid: block.subarray(48, 64),
    tarBytes: read64(page, LAYER_MAGIC.length),
    chunked: (block.readUInt32LE(80) & INCOMPAT_CHUNKED_FILE) !== 0,
    device: (block.readUInt32LE(80) & INCOMPAT_DEVICE_TABLE) === 0 ? undefined : deviceIn(page),
  };
}

function deviceIn(page: Buffer): Device {
  return { blocks: page.readUInt32LE(DEVICE_SLOT_AT + 64), address: page.readUInt32LE(DEVICE_SLOT_AT + 68) };
}

/** CRC-32C (RFC 3720), without the inversion at the end, as Linux uses it for superblocks. */
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return crc >>> 0;
}

/** The type of a directory entry, by the type bits of a mode. */
export function entryType(mode: number): number {
  const type = ENTRY_TYPES[(mode >> 12) & 0xf];
  if (type === undefined || type === 0) throw new Error(`mode ${mode.toString(8)} has no type of a file`);
  return type;
}

/** Index: the four type bits. FIFO 1 → 5, character device 2 → 3, directory 4 → 2, block device 6 → 4, file 8 → 1, link 10 → 7. */
const ENTRY_TYPES = [0, 5, 3, 0, 2, 0, 4, 0, 1, 0, 7, 0, 6, 0, 0, 0];

export const roundUp = (value: number, unit: number): number => Math.ceil(value / unit) * unit;
