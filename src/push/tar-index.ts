import type { FileHandle } from 'node:fs/promises';
import { posix } from 'node:path';
import { type PaxRecords, parsePaxRecords } from '../archive/pax.ts';
import { hasNoContent, mergePax } from '../archive/tar-entry.ts';
import { BLOCK, isZeroBlock, parseTarHeader, type TarHeader, textField } from '../archive/tar-header.ts';
import { UnpackError } from '../errors.ts';

/** Maximum number of entries. Image archives have far fewer. */
const MAX_ENTRIES = 100_000;
/** Maximum size of a PAX header or a long name in bytes. */
const MAX_METADATA = 1024 * 1024;
/** Maximum number of links in a row. `docker save` writes one. */
const MAX_LINKS = 8;

/** The position of a file's content in an archive. */
export interface TarExtent {
  readonly offset: number;
  readonly size: number;
}

/** PAX records and long names, which replace fields of the next entry. */
interface Overrides {
  records?: PaxRecords;
  name?: Buffer;
  linkName?: Buffer;
}

/**
 * Finds the regular files of an uncompressed tar, so that files of an image archive can be read in any order. A link is
 * treated as its target, because `docker save` has written equal layers as links.
 * @returns the files by their normalized names
 * @throws UnpackError MANIFEST_INVALID if it is not a tar, or not complete
 */
export async function tarIndex(file: FileHandle, path: string): Promise<ReadonlyMap<string, TarExtent>> {
  const { size: end } = await file.stat();
  if (end === 0) throw notTar(path, 'it is empty');
  const files = new Map<string, TarExtent>();
  const links = new Map<string, string>();
  let overrides: Overrides = {};
  let position = 0;
  for (let count = 0; position + BLOCK <= end; count += 1) {
    const block = await read(file, position, BLOCK);
    if (isZeroBlock(block)) break;
    const header = parseTarHeader(block);
    const size = typeof header === 'string' ? -1 : contentSize(header, overrides, path);
    if (typeof header === 'string' || size < 0 || count > MAX_ENTRIES) {
      throw notTar(path, `there is no entry at byte ${position}`);
    }
    const offset = position + BLOCK;
    position = offset + Math.ceil(size / BLOCK) * BLOCK;
    if (offset + size > end) throw notTar(path, `${header.name} is cut off; the archive is not complete`);
    if (METADATA.has(header.typeFlag)) {
      if (size > MAX_METADATA) throw notTar(path, `the metadata at byte ${offset} is ${size} bytes long`);
      overrides = { ...overrides, ...overridesOf(header.typeFlag, await read(file, offset, size), path) };
      continue;
    }
    const rawName = (overrides.name ?? header.name).toString();
    const name = posix.normalize(rawName);
    const linkName = (overrides.linkName ?? header.linkName).toString();
    overrides = {};
    if (FILES.has(header.typeFlag) && !rawName.endsWith('/')) files.set(name, { offset, size });
    // the target of a symbolic link is relative to its directory, the target of a hard link to the archive
    if (header.typeFlag === SYMLINK) links.set(name, posix.join(posix.dirname(name), linkName));
    if (header.typeFlag === HARDLINK) links.set(name, posix.normalize(linkName));
  }
  for (const [name, first] of links) {
    let target = first;
    for (let hop = 0; hop < MAX_LINKS && !files.has(target); hop += 1) target = links.get(target) ?? target;
    const extent = files.get(target);
    if (extent !== undefined && !files.has(name)) files.set(name, extent);
  }
  return files;
}

const HARDLINK = 0x31;
const SYMLINK = 0x32;
const PAX = 0x78; // x
const LONG_NAME = 0x4c; // L
const LONG_LINK = 0x4b; // K
const METADATA: ReadonlySet<number> = new Set([PAX, LONG_NAME, LONG_LINK]);

/**
 * NUL, `0`, and `7` for contiguous files. In old archives directories have the type of a file, and a final slash in the
 * name.
 */
const FILES: ReadonlySet<number> = new Set([0, 0x30, 0x37]);

/**
 * Applies PAX records to the header of an entry, but not to headers of further metadata.
 * @returns the size of the content in bytes
 */
function contentSize(header: TarHeader, { records }: Overrides, path: string): number {
  if (METADATA.has(header.typeFlag)) return Number(header.size);
  if (records !== undefined) mergePax(header, records, (what) => notTar(path, `a PAX header has ${what}`));
  return hasNoContent(header.typeFlag) ? 0 : Number(header.size);
}

function overridesOf(typeFlag: number, content: Buffer, path: string): Overrides {
  if (typeFlag === LONG_NAME) return { name: textField(content) };
  if (typeFlag === LONG_LINK) return { linkName: textField(content) };
  const records = parsePaxRecords(content);
  if (typeof records === 'string') throw notTar(path, `a PAX header has ${records}`);
  return { records };
}

async function read(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, position);
  return buffer.subarray(0, bytesRead);
}

function notTar(path: string, why: string): UnpackError {
  return new UnpackError(
    'MANIFEST_INVALID',
    `${path} is not an image archive (a tar, or one compressed with gzip, zstd or xz): ${why}`,
  );
}
