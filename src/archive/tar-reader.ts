import { UnpackError } from '../errors.ts';
import type { EntrySink, TarEntry } from './entry.ts';
import { showName } from './entry.ts';
import { type PaxRecords, parsePaxRecords } from './pax.ts';
import {
  isValidSparseMap,
  type SparseExtent,
  sparseMapLines,
  sparseMapOfData,
  sparseMapOfHeader,
  sparseMapOfRecords,
  sparseVersion,
} from './sparse.ts';
import { checkSize, decimal, entryOf, mergePax, sizeOf, typeOf } from './tar-entry.ts';
import { BLOCK, isZeroBlock, parseTarHeader, type TarHeader, textField } from './tar-header.ts';
import { parseNumeric } from './tar-numbers.ts';

const EMPTY = Buffer.alloc(0);

/** The limits of one layer. A layer above a limit fails with LIMIT_EXCEEDED. */
export interface LayerLimits {
  /** Maximum size of the tar in bytes, after decompression. */
  readonly uncompressedBytes: number;
  readonly entries: number;
  /** Maximum size in bytes of the PAX records, the long names and the sparse map of one entry together. */
  readonly entryMetadataBytes: number;
  /**
   * Approximate maximum memory in bytes for data that is kept until the last entry, such as times of directories and
   * whiteouts.
   */
  readonly memoryBytes: number;
}

/** The limits that the reader enforces. The sink enforces the others. */
type ReaderLimits = Omit<LayerLimits, 'memoryBytes'>;

/**
 * The state of the reader is the kind of the next bytes:
 *
 *   header ──▶ special ──▶ padding ──▶ header            a PAX header or a GNU long name, which changes the next entry
 *   header ──▶ sparse-header* / sparse-map ──▶ data      a sparse file, with its map before the data
 *   header ──▶ data ──▶ padding ──▶ header               a file
 *   header ──▶ header                                    an entry without content
 *   header ──▶ trailer                                   two zero blocks; what follows is ignored
 */
type State = 'header' | 'special' | 'sparse-header' | 'sparse-map' | 'data' | 'padding' | 'trailer';

/**
 * Reads a tar stream of any format (v7, ustar, PAX, GNU, star) as Go's archive/tar does, and passes its entries to a
 * sink. `write` takes the bytes in any pieces. The content that the sink gets consists of slices of these pieces,
 * without a copy. A malformed archive throws LAYER_CORRUPT with the entry and its offset, an archive above a limit
 * LIMIT_EXCEEDED.
 */
export class TarReader {
  /** The number of entries so far. */
  entries = 0;
  /** The number of bytes so far. During `write`, the chunk of that call does not count. */
  bytes = 0;

  private state: State = 'header';
  /** A block or a special file that arrives in pieces. */
  private readonly pieces: Buffer[] = [];
  private gathered = 0;
  private zeroBlocks = 0;
  private headerOffset = 0;

  /** Number of missing bytes: the content of the current entry, and the padding after the content. */
  private remaining = 0;
  private padding = 0;

  /** Records and names from special files, for the next entry. */
  private records: PaxRecords | undefined;
  private longName: Buffer = EMPTY;
  private longLink: Buffer = EMPTY;
  private special: 'pax' | 'global' | 'name' | 'link' = 'pax';

  /** A sparse file whose map is not complete yet. */
  private pending: { entry: TarEntry; map: SparseExtent[] } | undefined;
  private mapBlocks: Buffer[] = [];
  /** Number of missing lines of a map before the data. `undefined` until the first line is complete. */
  private mapLines: number | undefined;
  /**
   * The extents of the current file, the index of the current extent, and the position of the next byte in the file.
   */
  private extents: readonly SparseExtent[] | undefined;
  private extent = 0;
  private position = 0;

  private readonly sink: EntrySink;
  private readonly limits: ReaderLimits;

  constructor(sink: EntrySink, limits: ReaderLimits) {
    this.sink = sink;
    this.limits = limits;
  }

  /** Takes the next bytes of the archive. @throws UnpackError; any error of the sink */
  write(chunk: Buffer): void {
    if (this.bytes + chunk.length > this.limits.uncompressedBytes) {
      throw new UnpackError(
        'LIMIT_EXCEEDED',
        `the layer is longer than ${this.limits.uncompressedBytes} bytes uncompressed, the limit (UNPACK_MAX_LAYER_BYTES)`,
      );
    }
    let at = 0;
    while (at < chunk.length) {
      switch (this.state) {
        case 'data':
          at += this.content(chunk, at);
          break;
        case 'padding': {
          const step = Math.min(this.padding, chunk.length - at);
          this.padding -= step;
          at += step;
          if (this.padding === 0) this.state = 'header';
          break;
        }
        case 'trailer':
          at = chunk.length;
          break;
        default:
          at += this.gather(chunk, at);
      }
    }
    this.bytes += chunk.length;
  }

  /** Call it after the last byte. A missing end-of-archive mark is allowed. @throws UnpackError LAYER_CORRUPT if truncated */
  finish(): void {
    if (this.state === 'trailer' || this.state === 'padding') return;
    if (this.state === 'header' && this.gathered === 0) return;
    const where = this.state === 'header' ? 'inside a header' : 'inside the content of an entry';
    throw this.corrupt(`the archive ends ${where}`);
  }

  /** Collects the bytes that the state needs in one piece. @returns the number of consumed bytes */
  private gather(chunk: Buffer, at: number): number {
    const wanted = this.state === 'special' ? this.remaining : BLOCK;
    const step = Math.min(wanted - this.gathered, chunk.length - at);
    if (this.gathered === 0 && step === wanted) {
      if (this.state === 'header') this.headerOffset = this.bytes + at;
      this.gatheredAll(chunk.subarray(at, at + step));
      return step;
    }
    if (this.gathered === 0 && this.state === 'header') this.headerOffset = this.bytes + at;
    this.pieces.push(Buffer.from(chunk.subarray(at, at + step)));
    this.gathered += step;
    if (this.gathered === wanted) {
      const whole = Buffer.concat(this.pieces);
      this.pieces.length = 0;
      this.gathered = 0;
      this.gatheredAll(whole);
    }
    return step;
  }

  private gatheredAll(bytes: Buffer): void {
    switch (this.state) {
      case 'header':
        this.header(bytes);
        break;
      case 'special':
        this.specialFile(bytes);
        break;
      case 'sparse-header':
        this.sparseHeader(bytes);
        break;
      default:
        this.sparseMap(bytes);
    }
  }

  private header(block: Buffer): void {
    if (isZeroBlock(block)) {
      this.zeroBlocks++;
      if (this.zeroBlocks === 2) this.state = 'trailer';
      return;
    }
    if (this.zeroBlocks > 0) throw this.corrupt('a header follows a block of zeros');
    const header = parseTarHeader(block);
    if (typeof header === 'string') throw this.corrupt(header);
    switch (header.typeFlag) {
      case 0x78: // x
        this.beginSpecial('pax', header);
        break;
      case 0x67: // g
        this.beginSpecial('global', header);
        break;
      case 0x4c: // L
        this.beginSpecial('name', header);
        break;
      case 0x4b: // K
        this.beginSpecial('link', header);
        break;
      default:
        this.file(header, block);
    }
  }

  private beginSpecial(special: 'pax' | 'global' | 'name' | 'link', header: TarHeader): void {
    const size = sizeOf(header, this.corrupt);
    if (size > this.limits.entryMetadataBytes) throw this.tooMuchMetadata(size);
    this.special = special;
    this.remaining = size;
    this.padding = paddingOf(size);
    this.state = 'special';
    if (size === 0) this.specialFile(EMPTY);
  }

  private specialFile(bytes: Buffer): void {
    this.state = this.padding > 0 ? 'padding' : 'header';
    if (this.special === 'name') {
      this.longName = textField(bytes);
    } else if (this.special === 'link') {
      this.longLink = textField(bytes);
    } else {
      // copied, because the records are kept after the chunk
      const records = parsePaxRecords(Buffer.from(bytes));
      if (typeof records === 'string') throw this.corrupt(`a PAX header with ${records}`);
      // a global header is ignored, but like every header it discards the records and names for the next entry
      this.records = this.special === 'pax' ? records : undefined;
      if (this.special === 'global') this.longName = this.longLink = EMPTY;
    }
  }

  private file(header: TarHeader, block: Buffer): void {
    const records = this.records;
    checkSize(header, this.corrupt);
    if (records !== undefined) mergePax(header, records, this.corrupt);
    if (this.longName.length > 0) header.name = this.longName;
    if (this.longLink.length > 0) header.linkName = this.longLink;
    this.records = undefined;
    this.longName = EMPTY;
    this.longLink = EMPTY;

    const type = typeOf(header, this.corrupt);
    const stored = type === 'file' ? sizeOf(header, this.corrupt) : 0;
    this.remaining = stored;
    this.padding = paddingOf(stored);

    const oldSparse = header.typeFlag === 0x53; // S
    const version = records === undefined || oldSparse ? undefined : sparseVersion(records);
    if (version !== undefined && records !== undefined) {
      const name = records.get('GNU.sparse.name');
      if (name !== undefined && name.length > 0) {
        if (name.includes(0)) throw this.corrupt('a NUL in the name of a sparse file', header.name);
        header.name = Buffer.from(name);
      }
      const size = ['GNU.sparse.size', 'GNU.sparse.realsize']
        .map((key) => records.get(key))
        .find((value) => value?.length);
      if (size !== undefined) {
        header.size = decimal(size, 'sparse file size', header.name, this.corrupt);
      }
      if (type !== 'file') throw this.corrupt('a sparse map on an entry that is no file', header.name);
    }
    if (oldSparse) {
      if (header.format !== 'gnu') throw this.corrupt('a sparse file of an unknown format', header.name);
      const size = parseNumeric(block, 483, 495);
      if (size === undefined) throw this.corrupt('a malformed size of a sparse file', header.name);
      header.size = size;
    }
    const entry = entryOf(
      header,
      type,
      { records, sparse: oldSparse || version !== undefined, offset: this.headerOffset },
      this.corrupt,
    );

    if (oldSparse) {
      const map = sparseMapOfHeader(block.subarray(386, 482), 4);
      if (map === undefined) throw this.corrupt('a malformed sparse map', header.name);
      this.pending = { entry, map };
      if (block[482] !== 0) this.state = 'sparse-header';
      else this.beginSparse();
    } else if (version === 'data') {
      this.pending = { entry, map: [] };
      this.mapBlocks = [];
      this.mapLines = undefined;
      this.state = 'sparse-map';
      if (this.remaining < BLOCK) throw this.corrupt('a sparse file without a map', header.name);
    } else if (version === 'records' && records !== undefined) {
      const map = sparseMapOfRecords(records);
      if (map === undefined) throw this.corrupt('a malformed sparse map', header.name);
      this.pending = { entry, map };
      this.beginSparse();
    } else {
      this.begin(entry, undefined);
    }
  }

  /** Another block of an old GNU sparse map. The entry's size does not include it. */
  private sparseHeader(block: Buffer): void {
    const pending = this.pendingFile();
    const more = sparseMapOfHeader(block.subarray(0, 504), 21);
    if (more === undefined) throw this.corrupt('a malformed sparse map', pending.entry.name);
    pending.map.push(...more);
    if (pending.map.length * 24 > this.limits.entryMetadataBytes) throw this.tooMuchMetadata(pending.map.length * 24);
    if (block[504] === 0) this.beginSparse();
  }

  /** A block of the map before the data (format 1.0). The entry's size includes it. */
  private sparseMap(block: Buffer): void {
    const pending = this.pendingFile();
    this.remaining -= BLOCK;
    this.mapBlocks.push(Buffer.from(block));
    const length = this.mapBlocks.length * BLOCK;
    if (length > this.limits.entryMetadataBytes) throw this.tooMuchMetadata(length);
    if (this.mapLines === undefined && block.includes(0x0a)) this.mapLines = sparseMapLines(this.mapBlocks);
    for (const byte of block) if (byte === 0x0a && this.mapLines !== undefined) this.mapLines--;
    if (this.mapLines !== undefined && this.mapLines <= 0) {
      const map = sparseMapOfData(Buffer.concat(this.mapBlocks));
      if (map === undefined) throw this.corrupt('a malformed sparse map', pending.entry.name);
      pending.map = map;
      this.beginSparse();
    } else if (this.remaining < BLOCK) {
      throw this.corrupt('a sparse map without its last lines', pending.entry.name);
    }
  }

  private beginSparse(): void {
    const { entry, map } = this.pendingFile();
    this.pending = undefined;
    if (!isValidSparseMap(map, entry.size)) throw this.corrupt('a sparse map outside of its file', entry.name);
    const stored = map.reduce((sum, extent) => sum + extent.length, 0);
    if (stored !== this.remaining) {
      throw this.corrupt(`a sparse map of ${stored} bytes over ${this.remaining} bytes of data`, entry.name);
    }
    this.begin(
      entry,
      map.filter((extent) => extent.length > 0),
    );
  }

  private begin(entry: TarEntry, extents: SparseExtent[] | undefined): void {
    this.entries++;
    if (this.entries > this.limits.entries) {
      throw new UnpackError(
        'LIMIT_EXCEEDED',
        `the layer has more than ${this.limits.entries} entries, the limit (UNPACK_MAX_LAYER_ENTRIES)`,
      );
    }
    this.sink.entry(entry);
    this.extents = extents;
    this.extent = 0;
    this.position = extents?.[0]?.offset ?? 0;
    if (this.remaining > 0) {
      this.state = 'data';
      return;
    }
    if (entry.type === 'file') this.sink.end();
    this.state = 'header';
  }

  /** Passes content from the chunk to the sink. @returns the number of consumed bytes */
  private content(chunk: Buffer, at: number): number {
    const available = Math.min(this.remaining, chunk.length - at);
    let step = available;
    const extent = this.extents?.[this.extent];
    if (extent !== undefined) step = Math.min(step, extent.offset + extent.length - this.position);
    this.sink.data(chunk.subarray(at, at + step), this.position, this.bytes + at);
    this.position += step;
    this.remaining -= step;
    if (extent !== undefined && this.position === extent.offset + extent.length) {
      this.extent++;
      this.position = this.extents?.[this.extent]?.offset ?? this.position;
    }
    if (this.remaining === 0) {
      this.state = this.padding > 0 ? 'padding' : 'header';
      this.sink.end();
    }
    return step;
  }

  private pendingFile(): { entry: TarEntry; map: SparseExtent[] } {
    if (this.pending === undefined) throw new Error('a sparse map without its file');
    return this.pending;
  }

  private tooMuchMetadata(size: number): UnpackError {
    return new UnpackError(
      'LIMIT_EXCEEDED',
      `the entry at byte ${this.headerOffset} has ${size} bytes of metadata; the limit is ${this.limits.entryMetadataBytes} (UNPACK_MAX_ENTRY_METADATA)`,
    );
  }

  private readonly corrupt = (what: string, name?: Buffer): UnpackError => {
    const which = name === undefined || name.length === 0 ? 'the entry' : `the entry ${showName(name)}`;
    return new UnpackError('LAYER_CORRUPT', `${which} at byte ${this.headerOffset} of the tar: ${what}`);
  };
}

const paddingOf = (size: number): number => (BLOCK - (size % BLOCK)) % BLOCK;
