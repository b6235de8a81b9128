import type { Timespec } from '../system/files.ts';

/** The types of entries. Other types are refused. */
export type EntryType = 'file' | 'hardlink' | 'symlink' | 'character' | 'block' | 'directory' | 'fifo';

/** One entry of a tar, the same for all tar formats. Names are bytes. */
export interface TarEntry {
  readonly type: EntryType;
  readonly name: Buffer;
  readonly linkName: Buffer;
  /** Permission, setuid, setgid and sticky bits. */
  readonly mode: number;
  /** Owner: unsigned, 32 bits, as in the kernel. */
  readonly uid: number;
  readonly gid: number;
  /** Size of the file on disk in bytes, holes included. */
  readonly size: number;
  /**
   * Times to set on disk. A time outside of the supported range is replaced by 1970. `atime` is the later of the two
   * times in the archive.
   */
  readonly mtime: Timespec;
  readonly atime: Timespec;
  readonly devMajor: number;
  readonly devMinor: number;
  /** Extended attributes by full name (bytes as latin1), in the order of the archive. */
  readonly xattrs: ReadonlyMap<string, Buffer> | undefined;
  /** Names of attributes that only libarchive's records have. containerd ignores them, so a failure to set one is no error. */
  readonly libarchiveOnly: ReadonlySet<string> | undefined;
  /** Whether the content has holes, so that the file can be larger than its last data suggest. */
  readonly sparse: boolean;
  /** Offset of the header, in bytes from the start of the tar. */
  readonly offset: number;
}

/** Receives the entries of an archive from a TarReader. LayerWriter implements it. */
export interface EntrySink {
  /** The next entry. For a file, `data` and `end` follow. */
  entry(entry: TarEntry): void;
  /**
   * Content of the file at `position`, in ascending order. The bytes are valid only during the call.
   * @param offset where these bytes lie, in bytes from the start of the tar
   */
  data(bytes: Buffer, position: number, offset: number): void;
  /** The file's content is complete. */
  end(): void;
}

/** A name for a message: quoted, printable and at most 200 bytes. */
export function showName(name: Uint8Array): string {
  const text = Buffer.from(name.subarray(0, 200)).toString('latin1');
  const printable = text.replace(/[^\x20-\x7e]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
  return `"${printable}${name.length > 200 ? '…' : ''}"`;
}
