import type { Timespec } from '../system/files.ts';

/** Entry types by their flag in the archive; everything else is refused. */
export type EntryType = 'file' | 'hardlink' | 'symlink' | 'character' | 'block' | 'directory' | 'fifo';

/** One entry of a layer as its headers say it, all formats made one. Names are bytes. */
export interface TarEntry {
  readonly type: EntryType;
  readonly name: Buffer;
  readonly linkName: Buffer;
  /** Permission, setuid, setgid and sticky bits. */
  readonly mode: number;
  /** As the kernel takes them: 32 bits, unsigned. */
  readonly uid: number;
  readonly gid: number;
  /** Bytes of the file once written, holes included. */
  readonly size: number;
  /** As they go to disk: the access time is the later of the archive's two, a time that no file can have is the epoch. */
  readonly mtime: Timespec;
  readonly atime: Timespec;
  readonly devMajor: number;
  readonly devMinor: number;
  /** Extended attributes by their full name (bytes as latin1), in the order of the archive. */
  readonly xattrs: ReadonlyMap<string, Buffer> | undefined;
  /** Those of them that containerd would not read; one that cannot be set is left out. */
  readonly libarchiveOnly: ReadonlySet<string> | undefined;
  /** Whether the content has holes, so that its length is not what was written last. */
  readonly sparse: boolean;
  /** Where the entry's header begins, in bytes from the start of the tar. */
  readonly offset: number;
}

/** What a reader tells of an archive, entry by entry. */
export interface EntrySink {
  /** The next entry; for a file, `data` and `end` follow before the next one. */
  entry(entry: TarEntry): void;
  /** Content of the file: `bytes` at `position` in it, in ascending order. The bytes are only valid during the call. */
  data(bytes: Buffer, position: number): void;
  /** The file's content is complete. */
  end(): void;
}

/** A name for a sentence: printable, and of a sane length. */
export function showName(name: Uint8Array): string {
  const text = Buffer.from(name.subarray(0, 200)).toString('latin1');
  const printable = text.replace(/[^\x20-\x7e]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
  return `"${printable}${name.length > 200 ? '…' : ''}"`;
}
