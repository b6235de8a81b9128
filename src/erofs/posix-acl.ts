import type { KernelErrorCode } from './kernel-error.ts';

/** One entry of an access control list (acl(5)). */
interface AclEntry {
  readonly tag: number;
  readonly permissions: number;
  /** Of a named user or group; otherwise `NO_ID`. */
  readonly id: number;
}

export type Acl = readonly AclEntry[];

const TAG = { owner: 0x01, user: 0x02, owningGroup: 0x04, group: 0x08, mask: 0x10, other: 0x20 } as const;
const NO_ID = 0xffffffff;
const VERSION = 2;
const HEADER = 4;
const ENTRY = 8;

/**
 * POSIX access control lists as extended attributes have them (`struct posix_acl_xattr_header`), with the rules of Linux,
 * fs/posix_acl.c: the function is named at each.
 *
 * Parses a value (`posix_acl_from_xattr`). @returns an empty list if the value removes the list, or the kernel's error
 */
export function parseAcl(value: Uint8Array): Acl | KernelErrorCode {
  if (value.length === 0) return [];
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.length);
  if (bytes.length < HEADER) return 'EINVAL';
  if (bytes.readUInt32LE(0) !== VERSION) return 'EOPNOTSUPP';
  if ((bytes.length - HEADER) % ENTRY !== 0) return 'EINVAL';
  const acl: AclEntry[] = [];
  for (let at = HEADER; at < bytes.length; at += ENTRY) {
    const tag = bytes.readUInt16LE(at);
    const isNamed = tag === TAG.user || tag === TAG.group;
    const id = isNamed ? bytes.readUInt32LE(at + 4) : NO_ID;
    if (isNamed && id === NO_ID) return 'EINVAL';
    if (!Object.values<number>(TAG).includes(tag)) return 'EINVAL';
    acl.push({ tag, permissions: bytes.readUInt16LE(at + 2), id });
  }
  return acl;
}

/** The value in the form in which the kernel returns it (`posix_acl_to_xattr`). */
export function encodeAcl(acl: Acl): Buffer {
  const value = Buffer.alloc(HEADER + ENTRY * acl.length);
  value.writeUInt32LE(VERSION, 0);
  for (const [index, { tag, permissions, id }] of acl.entries()) {
    const at = HEADER + ENTRY * index;
    value.writeUInt16LE(tag, at);
    value.writeUInt16LE(permissions, at + 2);
    value.writeUInt32LE(id, at + 4);
  }
  return value;
}

/** The tags that may follow a tag. A mask is needed after a named user or group. */
const AFTER: Readonly<Record<number, readonly number[]>> = {
  [TAG.owner]: [TAG.user, TAG.owningGroup],
  [TAG.user]: [TAG.user, TAG.owningGroup],
  [TAG.owningGroup]: [TAG.group, TAG.mask, TAG.other],
  [TAG.group]: [TAG.group, TAG.mask],
  [TAG.mask]: [TAG.other],
  [TAG.other]: [],
};

/** Whether the entries are complete and in order (`posix_acl_valid`). */
export function isValidAcl(acl: Acl): boolean {
  if (acl[0]?.tag !== TAG.owner || acl.at(-1)?.tag !== TAG.other) return false;
  let needsMask = false;
  for (const [index, { tag, permissions }] of acl.entries()) {
    if ((permissions & ~7) !== 0) return false;
    if (tag === TAG.user || tag === TAG.group) needsMask = true;
    const next = acl[index + 1];
    if (next === undefined) continue;
    if (!(AFTER[tag] ?? []).includes(next.tag)) return false;
    if (next.tag === TAG.other && tag !== TAG.mask && needsMask) return false;
  }
  return true;
}

/**
 * The mode of a file with an access list (`posix_acl_equiv_mode`).
 * @returns `minimal`: the mode says all that the list says, so the list is not stored
 */
export function modeOf(acl: Acl, mode: number): { readonly mode: number; readonly minimal: boolean } {
  let bits = 0;
  let minimal = true;
  for (const { tag, permissions } of acl) {
    if (tag === TAG.owner) bits |= permissions << 6;
    else if (tag === TAG.owningGroup) bits |= permissions << 3;
    else if (tag === TAG.other) bits |= permissions;
    else {
      minimal = false;
      if (tag === TAG.mask) bits = (bits & ~0o070) | (permissions << 3);
    }
  }
  return { mode: (mode & ~0o777) | bits, minimal };
}

/** The access list after a chmod: its mask gets the bits of the group, if there is one (`__posix_acl_chmod_masq`). */
export function changedByMode(acl: Acl, mode: number): Acl {
  const group = acl.some(({ tag }) => tag === TAG.mask) ? TAG.mask : TAG.owningGroup;
  return acl.map((entry) => {
    if (entry.tag === TAG.owner) return { ...entry, permissions: (mode >> 6) & 7 };
    if (entry.tag === group) return { ...entry, permissions: (mode >> 3) & 7 };
    return entry.tag === TAG.other ? { ...entry, permissions: mode & 7 } : entry;
  });
}

/**
 * The access list and the mode of a new file in a directory with a default list (`posix_acl_create_masq`).
 * @param mode with which the file is created
 * @returns `acl` is `undefined` if the mode says all
 */
export function inherited(acl: Acl, mode: number): { readonly mode: number; readonly acl: Acl | undefined } {
  const hasMask = acl.some(({ tag }) => tag === TAG.mask);
  let bits = mode & 0o777;
  let named = false;
  const own = acl.map((entry) => {
    const { tag } = entry;
    if (tag === TAG.user || tag === TAG.group || tag === TAG.mask) named = true;
    const shift =
      tag === TAG.owner ? 6 : tag === TAG.other ? 0 : tag === (hasMask ? TAG.mask : TAG.owningGroup) ? 3 : -1;
    if (shift < 0) return entry;
    const permissions = entry.permissions & (mode >> shift) & 7;
    bits = (bits & ~(7 << shift)) | (permissions << shift);
    return { ...entry, permissions };
  });
  return { mode: (mode & ~0o777) | bits, acl: named ? own : undefined };
}
