import { UnpackError } from '../errors.ts';
import { type EntryType, showName, type TarEntry } from './entry.ts';
import { type PaxRecords, paxXattrs } from './pax.ts';
import { boundTime, type TarHeader, type WideTime } from './tar-header.ts';
import { parseDecimal, parsePaxTime } from './tar-numbers.ts';

/** Makes the error for the current entry. @param what the fault, as a phrase @param name the name of the entry */
export type Corrupt = (what: string, name: Buffer) => UnpackError;

/** The type of an entry. @throws UnpackError for an unknown type */
export function typeOf(header: TarHeader, corrupt: Corrupt): EntryType {
  switch (header.typeFlag) {
    case 0: // old archives end a directory's name with a slash
      return header.name.at(-1) === 0x2f ? 'directory' : 'file';
    case 0x30:
    case 0x53: // GNU sparse
      return 'file';
    case 0x31:
      return 'hardlink';
    case 0x32:
      return 'symlink';
    case 0x33:
      return 'character';
    case 0x34:
      return 'block';
    case 0x35:
      return 'directory';
    case 0x36:
      return 'fifo';
    default:
      throw corrupt(
        `an entry of the unknown type ${JSON.stringify(String.fromCharCode(header.typeFlag))}`,
        header.name,
      );
  }
}

/** Replaces the header's fields by those of PAX records. Records with an empty value are ignored. */
export function mergePax(header: TarHeader, records: PaxRecords, corrupt: Corrupt): void {
  for (const [key, value] of records) {
    if (value.length === 0) continue;
    if (key === 'path') header.name = value;
    else if (key === 'linkpath') header.linkName = value;
    else if (key === 'uid') header.uid = decimal(value, key, header.name, corrupt);
    else if (key === 'gid') header.gid = decimal(value, key, header.name, corrupt);
    else if (key === 'size') header.size = decimal(value, key, header.name, corrupt);
    else if (key === 'mtime') header.mtime = time(value, key, header.name, corrupt);
    else if (key === 'atime') header.atime = time(value, key, header.name, corrupt);
    else if (key === 'ctime') time(value, key, header.name, corrupt);
  }
}

/** The entry that a header and its PAX records describe. */
export function entryOf(
  header: TarHeader,
  type: EntryType,
  about: { readonly records: PaxRecords | undefined; readonly sparse: boolean; readonly offset: number },
  corrupt: Corrupt,
): TarEntry {
  const { records, sparse, offset } = about;
  const attributes = records === undefined ? undefined : paxXattrs(records);
  const size = type === 'file' ? sizeOf(header, corrupt) : 0;
  const { atime } = header;
  const mtime = boundTime(header.mtime);
  return {
    type,
    name: header.name,
    linkName: header.linkName,
    mode: typeof header.mode === 'number' ? header.mode % 0o10000 : Number(BigInt.asUintN(12, header.mode)),
    uid: toUint32(header.uid),
    gid: toUint32(header.gid),
    size,
    mtime,
    atime: atime === undefined || isEarlier(atime, header.mtime) ? mtime : boundTime(atime),
    devMajor: Number(header.devMajor),
    devMinor: Number(header.devMinor),
    xattrs: attributes?.xattrs,
    libarchiveOnly: attributes?.libarchiveOnly,
    sparse,
    offset,
  };
}

/** Whether an entry of this type never has content, whatever its size field says (Go, `isHeaderOnlyType`). */
export const hasNoContent = (typeFlag: number): boolean => typeFlag >= 0x31 && typeFlag <= 0x36;

/**
 * Refuses a negative size in the header, as Go does, even if a PAX record replaces it. Types without content are exempt. A
 * directory of an old archive has the type of a file, so it is not exempt.
 */
export function checkSize(header: TarHeader, corrupt: Corrupt): void {
  if (header.size < 0 && !hasNoContent(header.typeFlag)) throw corrupt('a negative size', header.name);
}

/** Size of the content in the archive in bytes, from the header. @throws UnpackError LAYER_CORRUPT, LIMIT_EXCEEDED */
export function sizeOf(header: TarHeader, corrupt: Corrupt): number {
  const size = Number(header.size);
  if (size < 0) throw corrupt('a negative size', header.name);
  if (Number.isSafeInteger(size)) return size;
  throw new UnpackError(
    'LIMIT_EXCEEDED',
    `the entry ${showName(header.name)} has a size of ${header.size} bytes; the limit is ${Number.MAX_SAFE_INTEGER}, more than any file system holds`,
  );
}

/** Parses a decimal number in a PAX record. @throws UnpackError */
export function decimal(value: Buffer, what: string, name: Buffer, corrupt: Corrupt): bigint {
  const number = parseDecimal(value.toString('latin1'));
  if (number === undefined) throw corrupt(`a malformed ${what} in its PAX header`, name);
  return number;
}

function time(value: Buffer, what: string, name: Buffer, corrupt: Corrupt): WideTime {
  const time = parsePaxTime(value.toString('latin1'));
  if (time === undefined) throw corrupt(`a malformed ${what} in its PAX header`, name);
  return time;
}

const toUint32 = (value: bigint | number): number =>
  typeof value === 'number' && value >= 0 && value <= 0xffffffff ? value : Number(BigInt.asUintN(32, BigInt(value)));

const isEarlier = (a: WideTime, b: WideTime): boolean =>
  a.seconds < b.seconds || (BigInt(a.seconds) === BigInt(b.seconds) && a.nanoseconds < b.nanoseconds);
