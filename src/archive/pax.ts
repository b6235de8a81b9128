import { showName } from './entry.ts';
import { parseDecimal } from './tar-numbers.ts';

/** The records of a PAX extended header (POSIX pax, "pax Extended Header"): keys as latin1 text, values as bytes. */
export type PaxRecords = Map<string, Buffer>;

const SPARSE_OFFSET = 'GNU.sparse.offset';
const SPARSE_LENGTH = 'GNU.sparse.numbytes';
export const SPARSE_MAP = 'GNU.sparse.map';
/** Values that become C strings, so a NUL is malformed. */
const TEXT_KEYS = new Set(['path', 'linkpath', 'uname', 'gname']);

/**
 * Parses `length key=value\n` records. The repeated offsets and lengths of GNU sparse format 0.0 are joined into the map of
 * format 0.1.
 * @returns the records; or, if they are malformed, the error as a phrase
 */
export function parsePaxRecords(bytes: Buffer): PaxRecords | string {
  const records: PaxRecords = new Map();
  const sparse: string[] = [];
  let rest = bytes;
  while (rest.length > 0) {
    const space = rest.indexOf(0x20);
    if (space < 1) return 'a record without a length';
    const digits = rest.toString('latin1', 0, space);
    const length = Number(parseDecimal(digits) ?? Number.NaN);
    if (!(length >= 5) || length > rest.length)
      return `a record whose length is not valid: ${JSON.stringify(digits.slice(0, 40))}`;
    if (length - 1 < space + 1 || rest[length - 1] !== 0x0a) return 'a record that does not end with a newline';
    const record = rest.subarray(space + 1, length - 1);
    const equals = record.indexOf(0x3d);
    if (equals < 0) return 'a record without "="';
    if (equals === 0) return 'a record without a key';
    const key = record.toString('latin1', 0, equals);
    const value = record.subarray(equals + 1);
    if (TEXT_KEYS.has(key) ? value.includes(0) : key.includes('\0')) return `a NUL in the record ${showKey(key)}`;
    if (key === SPARSE_OFFSET || key === SPARSE_LENGTH) {
      const expected = sparse.length % 2 === 0 ? SPARSE_OFFSET : SPARSE_LENGTH;
      if (key !== expected || value.includes(0x2c)) return 'sparse records out of order';
      sparse.push(value.toString('latin1'));
    } else {
      records.set(key, value);
    }
    rest = rest.subarray(length);
  }
  if (sparse.length > 0) records.set(SPARSE_MAP, Buffer.from(sparse.join(','), 'latin1'));
  return records;
}

/** The extended attributes of an entry. */
export interface PaxXattrs {
  readonly xattrs: Map<string, Buffer>;
  /** Names that only libarchive's records have. */
  readonly libarchiveOnly: Set<string>;
}

/**
 * The extended attributes in PAX records. `SCHILY.xattr.NAME` holds the raw value. libarchive also writes
 * `LIBARCHIVE.xattr.NAME`, with a percent-encoded name and a base64 value; this record is used only if the SCHILY
 * record is missing. containerd reads only SCHILY records, so a malformed record of libarchive is ignored. An empty
 * value is valid.
 */
export function paxXattrs(records: PaxRecords): PaxXattrs | undefined {
  const xattrs = new Map<string, Buffer>();
  const libarchiveOnly = new Set<string>();
  for (const [key, value] of records) {
    if (key.startsWith(SCHILY)) xattrs.set(key.slice(SCHILY.length), value);
  }
  for (const [key, value] of records) {
    if (!key.startsWith(LIBARCHIVE)) continue;
    const name = key
      .slice(LIBARCHIVE.length)
      .replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
    const text = value.toString('latin1');
    if (name === '' || xattrs.has(name) || name.includes('\0') || !/^[A-Za-z0-9+/]*=*$/.test(text)) continue;
    xattrs.set(name, Buffer.from(text, 'base64'));
    libarchiveOnly.add(name);
  }
  return xattrs.size === 0 ? undefined : { xattrs, libarchiveOnly };
}

const SCHILY = 'SCHILY.xattr.';
const LIBARCHIVE = 'LIBARCHIVE.xattr.';

const showKey = (key: string): string => showName(Buffer.from(key, 'latin1'));
