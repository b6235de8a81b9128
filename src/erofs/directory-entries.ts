import { UnpackError } from '../errors.ts';
import { type Charge, type InodeTable, larger } from './inode-table.ts';

/** Bytes of one row, without its name. */
const ROW = 4 * 5 + 1;

/** The largest place of a name: 32 bits. */
const MAX_NAMES = 0xffffffff;

/**
 * The entries of all directories of a tree in memory: a row each, in typed arrays, and a hash table of directory and name
 * (open addressing, linear probing). The entries of a directory are a list, newest first. Names are in one buffer, and
 * the targets of symbolic links are there, too. A row is never used again.
 */
export class DirectoryEntries {
  /** The directory of an entry. */
  parent = new Int32Array(0);
  inode = new Int32Array(0);
  /** The next and the previous entry of the directory; -1 at the ends. */
  next = new Int32Array(0);
  private previous = new Int32Array(0);
  private nameAt = new Uint32Array(0);
  private nameLength = new Uint8Array(0);
  private count = 0;
  private names: Buffer = Buffer.alloc(0);
  private namesLength = 0;
  /** Rows of entries; -1 is a free slot. The length is a power of two. */
  private slots = new Int32Array(0);
  /** Number of slots in use. */
  private used = 0;
  private readonly inodes: InodeTable;
  private readonly charge: Charge;

  constructor(inodes: InodeTable, charge: Charge) {
    this.inodes = inodes;
    this.charge = charge;
    this.grow(1024);
    this.rehash(2048);
  }

  /** Finds the name at `from` up to `to` in `bytes`. @returns -1 if the directory has no such name */
  find(directory: number, bytes: Buffer, from: number, to: number): number {
    const { slots, parent, nameAt, nameLength, names } = this;
    const length = to - from;
    const mask = slots.length - 1;
    for (let slot = hash(directory, bytes, from, to) & mask; ; slot = (slot + 1) & mask) {
      const entry = slots[slot] ?? -1;
      if (entry < 0) return -1;
      if (parent[entry] !== directory || nameLength[entry] !== length) continue;
      const at = nameAt[entry] ?? 0;
      let same = 0;
      while (same < length && names[at + same] === bytes[from + same]) same++;
      if (same === length) return entry;
    }
  }

  /** Adds a name that the directory does not have. @param name a C string of at most 255 bytes and its NUL */
  add(directory: number, name: Buffer, inode: number): number {
    if (this.count === this.parent.length) this.grow(Math.ceil(this.count * 1.5));
    if ((this.used + 1) * 4 > this.slots.length * 3) this.rehash(this.slots.length * 2);
    const length = name.length - 1;
    const at = this.store(name, length);
    const entry = this.count++;
    const { first } = this.inodes;
    const newest = first[directory] ?? -1;
    this.parent[entry] = directory;
    this.inode[entry] = inode;
    this.nameAt[entry] = at;
    this.nameLength[entry] = length;
    this.next[entry] = newest;
    this.previous[entry] = -1;
    if (newest >= 0) this.previous[newest] = entry;
    first[directory] = entry;
    this.put(entry);
    this.used++;
    return entry;
  }

  /** Removes an entry from its directory. Its row keeps its name and its directory. */
  remove(entry: number): void {
    const next = this.next[entry] ?? -1;
    const previous = this.previous[entry] ?? -1;
    if (next >= 0) this.previous[next] = previous;
    if (previous >= 0) this.next[previous] = next;
    else this.inodes.first[this.parent[entry] ?? 0] = next;
    this.free(entry);
    this.used--;
  }

  /** The name of an entry, without a NUL: valid until a name is added. */
  name(entry: number): Buffer {
    const at = this.nameAt[entry] ?? 0;
    return this.names.subarray(at, at + (this.nameLength[entry] ?? 0));
  }

  nameBytes(entry: number): number {
    return this.nameLength[entry] ?? 0;
  }

  copyName(entry: number, to: Buffer, at: number): void {
    const from = this.nameAt[entry] ?? 0;
    this.names.copy(to, at, from, from + (this.nameLength[entry] ?? 0));
  }

  /** Keeps bytes among the names. @returns their place */
  store(bytes: Uint8Array, length: number): number {
    const at = this.namesLength;
    const end = at + length;
    if (end > this.names.length) {
      if (end > MAX_NAMES) throw new UnpackError('LIMIT_EXCEEDED', 'the names of the layer are longer than 4 GiB');
      const capacity = Math.max(end, Math.ceil(this.names.length * 1.5), 1 << 14);
      this.charge(capacity - this.names.length);
      this.names = larger(this.names, Buffer.allocUnsafeSlow(capacity));
    }
    for (let i = 0; i < length; i++) this.names[at + i] = bytes[i] ?? 0;
    this.namesLength = end;
    return at;
  }

  /** Bytes that `store` has kept: valid until a name is added. */
  stored(at: number, length: number): Buffer {
    return this.names.subarray(at, at + length);
  }

  /** The entries of a directory, sorted by the bytes of their names. */
  sorted(directory: number): Int32Array {
    let count = 0;
    const { first } = this.inodes;
    for (let entry = first[directory] ?? -1; entry >= 0; entry = this.next[entry] ?? -1) count++;
    const entries = new Int32Array(count);
    // in the order of the archive, which is often sorted
    for (let entry = first[directory] ?? -1; entry >= 0; entry = this.next[entry] ?? -1) entries[--count] = entry;
    for (let i = 1; i < entries.length; i++) {
      if (this.compare(entries[i - 1] ?? 0, entries[i] ?? 0) > 0) return entries.sort((a, b) => this.compare(a, b));
    }
    return entries;
  }

  private compare(a: number, b: number): number {
    const { names, nameAt, nameLength } = this;
    const [atA, atB] = [nameAt[a] ?? 0, nameAt[b] ?? 0];
    const [lengthA, lengthB] = [nameLength[a] ?? 0, nameLength[b] ?? 0];
    for (let i = 0; i < lengthA && i < lengthB; i++) {
      const difference = (names[atA + i] ?? 0) - (names[atB + i] ?? 0);
      if (difference !== 0) return difference;
    }
    return lengthA - lengthB;
  }

  private home(entry: number): number {
    const at = this.nameAt[entry] ?? 0;
    return hash(this.parent[entry] ?? 0, this.names, at, at + (this.nameLength[entry] ?? 0)) & (this.slots.length - 1);
  }

  private put(entry: number): void {
    const mask = this.slots.length - 1;
    let slot = this.home(entry);
    while ((this.slots[slot] ?? -1) >= 0) slot = (slot + 1) & mask;
    this.slots[slot] = entry;
  }

  /** Frees the slot of an entry, and moves the entries after it so that no search stops before them. */
  private free(entry: number): void {
    const { slots } = this;
    const mask = slots.length - 1;
    let hole = this.home(entry);
    while (slots[hole] !== entry) hole = (hole + 1) & mask;
    for (let slot = (hole + 1) & mask; ; slot = (slot + 1) & mask) {
      const other = slots[slot] ?? -1;
      if (other < 0) break;
      // an entry may move to the hole if its search passes there
      if (((slot - this.home(other)) & mask) < ((slot - hole) & mask)) continue;
      slots[hole] = other;
      hole = slot;
    }
    slots[hole] = -1;
  }

  private rehash(length: number): void {
    this.charge((length - this.slots.length) * 4);
    const before = this.slots;
    this.slots = new Int32Array(length).fill(-1);
    for (const entry of before) if (entry >= 0) this.put(entry);
  }

  private grow(rows: number): void {
    this.charge((rows - this.parent.length) * ROW);
    this.parent = larger(this.parent, new Int32Array(rows));
    this.inode = larger(this.inode, new Int32Array(rows));
    this.next = larger(this.next, new Int32Array(rows));
    this.previous = larger(this.previous, new Int32Array(rows));
    this.nameAt = larger(this.nameAt, new Uint32Array(rows));
    this.nameLength = larger(this.nameLength, new Uint8Array(rows));
  }
}

/** FNV-1a of a directory and a name. */
function hash(directory: number, bytes: Buffer, from: number, to: number): number {
  let value = Math.imul(directory ^ 0x811c9dc5, 0x01000193);
  for (let i = from; i < to; i++) value = Math.imul(value ^ (bytes[i] ?? 0), 0x01000193);
  return value ^ (value >>> 15);
}
