import { ACCESS_ACL, DEFAULT_ACL } from './extended-attributes.ts';
import { roundUp, XATTR_HEADER } from './format.ts';

/** Prefixes of names, and the numbers that stand for them in an image. */
const PREFIXES = [
  ['user.', 1],
  ['trusted.', 4],
  ['security.', 6],
] as const;
const ACLS = [
  [ACCESS_ACL, 2],
  [DEFAULT_ACL, 3],
] as const;

/** Size of the header of one attribute: length of the name, number of the prefix, size of the value. */
const ENTRY = 4;

/** Size of the encoded attributes of an inode in bytes, a multiple of 4; 0 for none. */
export function xattrBytes(xattrs: ReadonlyMap<string, Buffer>): number {
  if (xattrs.size === 0) return 0;
  let bytes = XATTR_HEADER;
  for (const [key, value] of xattrs) bytes += entryBytes(key, value);
  return bytes;
}

/** Writes the attributes, sorted by name so that the same layer gives the same bytes. @returns the end */
export function writeXattrs(to: Buffer, at: number, xattrs: ReadonlyMap<string, Buffer>): number {
  let end = at + XATTR_HEADER; // zero: no filter of names, no shared attributes
  for (const [key, value] of [...xattrs].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const { prefix, name } = parts(key);
    to[end] = name.length;
    to[end + 1] = prefix;
    to.writeUInt16LE(value.length, end + 2);
    to.write(name, end + ENTRY, 'latin1');
    value.copy(to, end + ENTRY + name.length);
    end = at + XATTR_HEADER + roundUp(end + ENTRY + name.length + value.length - at - XATTR_HEADER, 4);
  }
  return end;
}

/** Reads what `writeXattrs` has written. @throws RangeError if it is something else */
export function readXattrs(from: Buffer): Map<string, Buffer> {
  const xattrs = new Map<string, Buffer>();
  for (let at = XATTR_HEADER; at < from.length; ) {
    const nameLength = from[at] ?? 0;
    const valueLength = from.readUInt16LE(at + 2);
    const name = at + ENTRY;
    const value = name + nameLength;
    if (value + valueLength > from.length) throw new RangeError('an extended attribute is longer than all together');
    const key = fullName(from[at + 1] ?? 0, from.toString('latin1', name, value));
    xattrs.set(key, Buffer.from(from.subarray(value, value + valueLength)));
    at += roundUp(ENTRY + nameLength + valueLength, 4);
  }
  return xattrs;
}

/** @throws RangeError for a number that has no prefix */
function fullName(prefix: number, name: string): string {
  for (const [acl, number] of ACLS) if (number === prefix) return acl;
  for (const [text, number] of PREFIXES) if (number === prefix) return `${text}${name}`;
  throw new RangeError(`${prefix} is not the prefix of an extended attribute`);
}

const entryBytes = (key: string, value: Buffer): number => roundUp(ENTRY + parts(key).name.length + value.length, 4);

/** @throws Error for a name that Linux does not allow on a file system */
function parts(key: string): { readonly prefix: number; readonly name: string } {
  for (const [acl, prefix] of ACLS) if (key === acl) return { prefix, name: '' };
  for (const [text, prefix] of PREFIXES) if (key.startsWith(text)) return { prefix, name: key.slice(text.length) };
  throw new Error(`an EROFS image has no place for the extended attribute ${key}`);
}
