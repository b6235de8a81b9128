import type { Charge } from './inode-table.ts';
import type { KernelErrorCode } from './kernel-error.ts';

/**
 * The limits of Linux for one call (linux/limits.h), without the NUL of the name, and what an inode of EROFS has room for:
 * 16 bits for the length of a value, and 16 bits for the length of all in steps of four bytes.
 */
const MAX_NAME = 255;
const MAX_VALUE = 65_535;
const MAX_TOTAL = 12 + 4 * 65_534;

export const ACCESS_ACL = 'system.posix_acl_access';
export const DEFAULT_ACL = 'system.posix_acl_default';
const CAPABILITY = 'security.capability';
const PREFIXES = ['user.', 'trusted.', 'security.'];

/** Bytes of memory for an attribute, in addition to its name and value. */
const OVERHEAD = 100;

/** The error of a name or value that no file can have; `undefined` if there is none. @param key without a NUL */
export function xattrError(key: Buffer, value: Uint8Array): KernelErrorCode | undefined {
  if (key.length === 0 || key.length > MAX_NAME) return 'ERANGE';
  return value.length > MAX_VALUE ? 'E2BIG' : undefined;
}

/** The error of an attribute other than an access control list (`vfs_setxattr`). @param carriesUser a file or directory */
export function plainXattrError(key: string, value: Uint8Array, carriesUser: boolean): KernelErrorCode | undefined {
  if (key === CAPABILITY && value.length > 0 && !isCapability(value)) return 'EINVAL';
  if (key.startsWith('user.') && !carriesUser) return 'EPERM';
  const prefix = PREFIXES.find((each) => key.startsWith(each));
  if (prefix === undefined) return 'EOPNOTSUPP';
  return key === prefix ? 'EINVAL' : undefined;
}

/** Whether a value is a file capability of version 2 or 3 (`struct vfs_ns_cap_data`). */
function isCapability(value: Uint8Array): boolean {
  const revision = value[3];
  // the lowest bit of the flags is the effective bit
  if (((value[0] ?? 0) & 0xfe) !== 0 || value[1] !== 0 || value[2] !== 0) return false;
  if (revision === 2) return value.length === 20;
  // the last four bytes are the user that is root, and 2^32 - 1 is nobody
  return revision === 3 && value.length === 24 && value.subarray(20).some((byte) => byte !== 0xff);
}

interface Attributes {
  readonly values: Map<string, Buffer>;
  /** Bytes in the index of EROFS. */
  bytes: number;
}

/** The extended attributes of the inodes of a tree in memory. Few inodes have any. */
export class ExtendedAttributes {
  private readonly byInode = new Map<number, Attributes>();
  private readonly charge: Charge;

  constructor(charge: Charge) {
    this.charge = charge;
  }

  /** By name (bytes as latin1), in the order in which they were set first. */
  of(inode: number): ReadonlyMap<string, Buffer> {
    return this.byInode.get(inode)?.values ?? NONE;
  }

  get(inode: number, key: string): Buffer | undefined {
    return this.byInode.get(inode)?.values.get(key);
  }

  /** @param value kept as it is, so it must not change @returns false if EROFS has no room for it */
  set(inode: number, key: string, value: Buffer): boolean {
    const attributes = this.byInode.get(inode) ?? { values: new Map<string, Buffer>(), bytes: 12 };
    const before = attributes.values.get(key);
    const bytes = attributes.bytes + storedBytes(key, value) - (before === undefined ? 0 : storedBytes(key, before));
    if (bytes > MAX_TOTAL) return false;
    this.charge(value.length - (before === undefined ? -(OVERHEAD + key.length) : before.length));
    attributes.bytes = bytes;
    attributes.values.set(key, value);
    this.byInode.set(inode, attributes);
    return true;
  }

  delete(inode: number, key: string): void {
    const attributes = this.byInode.get(inode);
    const before = attributes?.values.get(key);
    if (attributes === undefined || before === undefined) return;
    this.charge(-(OVERHEAD + key.length + before.length));
    attributes.bytes -= storedBytes(key, before);
    attributes.values.delete(key);
    if (attributes.values.size === 0) this.byInode.delete(inode);
  }

  /** An owner or a content changed. An empty capability stays, because the kernel does not see it (`cap_inode_need_killpriv`). */
  dropCapability(inode: number): void {
    if ((this.get(inode, CAPABILITY)?.length ?? 0) > 0) this.delete(inode, CAPABILITY);
  }

  /** Forgets an inode that was removed. */
  remove(inode: number): void {
    for (const key of [...this.of(inode).keys()]) this.delete(inode, key);
  }
}

const NONE: ReadonlyMap<string, Buffer> = new Map();

/** Bytes of an attribute in the index: a header of four bytes, the name without its prefix, the value; padded to four. */
function storedBytes(key: string, value: Buffer): number {
  const isAcl = key === ACCESS_ACL || key === DEFAULT_ACL;
  const suffix = isAcl ? 0 : key.length - (key.indexOf('.') + 1);
  return Math.ceil((4 + suffix + value.length) / 4) * 4;
}
