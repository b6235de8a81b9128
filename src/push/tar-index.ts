import type { FileHandle } from 'node:fs/promises';
import { posix } from 'node:path';
import { Header, type HeaderData, Pax } from 'tar';
import { UnpackError } from '../errors.ts';

const BLOCK = 512;
/** Far more files than any image archive has. */
const MOST_ENTRIES = 100_000;
const LONGEST_METADATA = 1024 * 1024;
/** Links in a row; `docker save` writes one. */
const LONGEST_CHAIN = 8;

const METADATA: ReadonlySet<string> = new Set([
  'ExtendedHeader',
  'NextFileHasLongPath',
  'NextFileHasLongLinkpath',
  'OldGnuLongPath',
]);

/** Where the bytes of a file lie in an archive. */
export interface TarExtent {
  readonly offset: number;
  readonly size: number;
}

/**
 * Where each regular file of an uncompressed tar lies, by its name, so that an image archive can be read at random
 * without being unpacked. Links count as the file that they lead to: `docker save` once wrote equal layers so.
 * @throws UnpackError MANIFEST_INVALID when it is no tar, or ends too early
 */
export async function tarIndex(file: FileHandle, path: string): Promise<ReadonlyMap<string, TarExtent>> {
  const { size: end } = await file.stat();
  if (end === 0) throw noTar(path, 'it is empty');
  const files = new Map<string, TarExtent>();
  const links = new Map<string, string>();
  let local: HeaderData | undefined;
  let position = 0;
  for (let count = 0; position + BLOCK <= end; count += 1) {
    const header = decode(await read(file, position, BLOCK), local);
    if (header?.nullBlock) break;
    if (!header?.cksumValid || count > MOST_ENTRIES) throw noTar(path, `there is no entry at byte ${position}`);
    const size = header.size ?? 0;
    const offset = position + BLOCK;
    position = offset + Math.ceil(size / BLOCK) * BLOCK;
    if (offset + size > end) throw noTar(path, `${header.path} runs past its end; it is not complete`);
    const { type } = header;
    if (METADATA.has(type)) {
      if (size > LONGEST_METADATA) throw noTar(path, `the metadata at byte ${offset} is ${size} bytes long`);
      const text = (await read(file, offset, size)).toString();
      local = {
        ...local,
        ...(type === 'ExtendedHeader'
          ? given(Pax.parse(text))
          : { [type === 'NextFileHasLongLinkpath' ? 'linkpath' : 'path']: text.replace(/\0.*/s, '') }),
      };
      continue;
    }
    // the decoder prefers the header's own link and prefix to what came before it
    const { path: named = header.path ?? '', linkpath = header.linkpath ?? '' } = local ?? {};
    local = undefined;
    const name = posix.normalize(named);
    if (type === 'File' || type === 'OldFile' || type === 'ContiguousFile') files.set(name, { offset, size });
    // a symbolic link is relative to its folder, a hard link to the archive
    if (type === 'SymbolicLink') links.set(name, posix.join(posix.dirname(name), linkpath));
    if (type === 'Link') links.set(name, posix.normalize(linkpath));
  }
  for (const [name, first] of links) {
    let target = first;
    for (let hop = 0; hop < LONGEST_CHAIN && !files.has(target); hop += 1) target = links.get(target) ?? target;
    const extent = files.get(target);
    if (extent !== undefined && !files.has(name)) files.set(name, extent);
  }
  return files;
}

/** `undefined` for bytes that make the decoder throw: numbers that can't be. */
function decode(block: Buffer, local: HeaderData | undefined): Header | undefined {
  try {
    return new Header(block, 0, local);
  } catch {
    return undefined;
  }
}

async function read(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, position);
  return buffer.subarray(0, bytesRead);
}

function given(pax: HeaderData): HeaderData {
  return {
    ...(pax.path === undefined ? {} : { path: pax.path }),
    ...(pax.linkpath === undefined ? {} : { linkpath: pax.linkpath }),
    ...(pax.size === undefined ? {} : { size: pax.size }),
  };
}

function noTar(path: string, why: string): UnpackError {
  return new UnpackError(
    'MANIFEST_INVALID',
    `${path} is not an image archive (a tar, or one packed with gzip, zstd or xz): ${why}`,
  );
}
