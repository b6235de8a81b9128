import type { Creator } from '../diff/layer-tree.ts';
import { S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from '../system/files.ts';
import { ACCESS_ACL, DEFAULT_ACL, ExtendedAttributes, plainXattrError, xattrError } from './extended-attributes.ts';
import type { Charge, InodeTable } from './inode-table.ts';
import { type KernelErrorCode, kernelError } from './kernel-error.ts';
import { type Acl, changedByMode, encodeAcl, inherited, isValidAcl, modeOf, parseAcl } from './posix-acl.ts';

const S_ISUID = 0o4000;
const S_ISGID = 0o2000;
const S_IXGRP = 0o010;
/** chown(2): the owner stays the same. */
const SAME = 0xffffffff;

/**
 * The owner, the mode, the extended attributes and the access lists of inodes, and how a change of one changes the others,
 * as in the kernel (fs/attr.c, fs/xattr.c, fs/posix_acl.c) for root with umask 0.
 */
export class InodeAttributes {
  readonly xattrs: ExtendedAttributes;
  private readonly inodes: InodeTable;
  private readonly creator: Creator;
  /** Default access lists of directories, parsed. */
  private readonly defaultAcls = new Map<number, Acl>();

  constructor(inodes: InodeTable, creator: Creator, charge: Charge) {
    this.inodes = inodes;
    this.creator = creator;
    this.xattrs = new ExtendedAttributes(charge);
  }

  /** Makes an inode with the owner, the mode and the access lists that a new file in `dir` gets. */
  inherit(dir: number, mode: number): number {
    const { inodes, creator } = this;
    const type = mode & S_IFMT;
    const setsGroup = ((inodes.mode[dir] ?? 0) & S_ISGID) !== 0;
    const gid = setsGroup ? (inodes.gid[dir] ?? 0) : creator.gid;
    const bits = setsGroup && type === S_IFDIR ? mode | S_ISGID : mode;
    const acl = type === S_IFLNK ? undefined : this.defaultAcls.get(dir);
    if (acl === undefined) return inodes.add(bits, creator.uid, gid);
    const own = inherited(acl, bits);
    const made = inodes.add(own.mode, creator.uid, gid);
    if (own.acl !== undefined) this.xattrs.set(made, ACCESS_ACL, encodeAcl(own.acl));
    if (type === S_IFDIR) {
      const value = this.xattrs.get(dir, DEFAULT_ACL);
      if (value !== undefined) this.xattrs.set(made, DEFAULT_ACL, value);
      this.defaultAcls.set(made, acl);
    }
    return made;
  }

  /** An ID of 2^32 - 1 stays the same (chown(2)). The setuid and setgid bits and file capabilities go. */
  chown(inode: number, uid: number, gid: number): void {
    const { inodes } = this;
    if (uid !== SAME) inodes.uid[inode] = uid;
    if (gid !== SAME) inodes.gid[inode] = gid;
    if (this.typeOf(inode) === S_IFDIR) return;
    let mode = (inodes.mode[inode] ?? 0) & ~S_ISUID;
    // without the right of the group to run it, the bit does not mean setgid
    if ((mode & S_IXGRP) !== 0) mode &= ~S_ISGID;
    inodes.mode[inode] = mode;
    this.xattrs.dropCapability(inode);
  }

  /** An access list changes with the mode. */
  chmod(inode: number, mode: number): void {
    this.inodes.mode[inode] = this.typeOf(inode) | (mode & 0o7777);
    const acl = this.xattrs.get(inode, ACCESS_ACL);
    if (acl === undefined) return;
    const parsed = parseAcl(acl);
    if (typeof parsed !== 'string') this.xattrs.set(inode, ACCESS_ACL, encodeAcl(changedByMode(parsed, mode)));
  }

  /** @param key a C string that `requireXattr` accepted @throws system errors */
  set(inode: number, key: Buffer, value: Uint8Array, syscall: string): void {
    const name = key.toString('latin1', 0, key.length - 1);
    if (name === ACCESS_ACL || name === DEFAULT_ACL) {
      this.setAcl(inode, name, value, (code) => kernelError(code, syscall, key));
      return;
    }
    const type = this.typeOf(inode);
    const error = plainXattrError(name, value, type === S_IFREG || type === S_IFDIR);
    if (error !== undefined) throw kernelError(error, syscall, key);
    if (!this.xattrs.set(inode, name, Buffer.from(value))) throw kernelError('ENOSPC', syscall, key);
  }

  /** Forgets an inode that was removed. */
  remove(inode: number): void {
    this.xattrs.remove(inode);
    this.defaultAcls.delete(inode);
  }

  /** Sets or removes an access control list (`do_set_acl`, `set_posix_acl`, `posix_acl_update_mode`). */
  private setAcl(
    inode: number,
    name: typeof ACCESS_ACL | typeof DEFAULT_ACL,
    value: Uint8Array,
    failure: (code: KernelErrorCode) => Error,
  ): void {
    const acl = parseAcl(value);
    if (typeof acl === 'string') throw failure(acl);
    const type = this.typeOf(inode);
    if (type === S_IFLNK) throw failure('EOPNOTSUPP');
    const removes = acl.length === 0;
    if (name === DEFAULT_ACL && type !== S_IFDIR) {
      if (removes) return;
      throw failure('EACCES');
    }
    if (!removes && !isValidAcl(acl)) throw failure('EINVAL');
    let keeps = !removes;
    if (name === ACCESS_ACL && !removes) {
      const { mode, minimal } = modeOf(acl, this.inodes.mode[inode] ?? 0);
      this.inodes.mode[inode] = mode;
      keeps = !minimal;
    }
    if (!keeps) this.xattrs.delete(inode, name);
    else if (!this.xattrs.set(inode, name, encodeAcl(acl))) throw failure('ENOSPC');
    if (name === ACCESS_ACL) return;
    if (keeps) this.defaultAcls.set(inode, acl);
    else this.defaultAcls.delete(inode);
  }

  private typeOf(inode: number): number {
    return (this.inodes.mode[inode] ?? 0) & S_IFMT;
  }
}

/** @throws a system error for a name or a value that no file can have */
export function requireXattr(key: Buffer, value: Uint8Array, syscall: string): void {
  const error = xattrError(key.subarray(0, -1), value);
  if (error !== undefined) throw kernelError(error, syscall, key);
}
