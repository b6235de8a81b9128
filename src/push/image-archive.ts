import { type FileHandle, open, stat } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { algorithmOf, type BlobDigest, hexOf } from '../oci/digest.ts';
import { readLayoutIndex } from '../oci/image-index.ts';
import { dockerSaveImages } from './docker-save.ts';
import { openUnpacked } from './packed-archive.ts';
import { fileBlob, type StoredBlob, whole } from './stored-blob.ts';
import { tarIndex } from './tar-index.ts';

/** The images of a folder or a file on this machine, to be pushed. */
export interface ImageArchive {
  readonly path: string;
  /** One for each image, with its name in the annotation `org.opencontainers.image.ref.name` where it has one. */
  readonly images: readonly Descriptor[];
  /** `undefined` where it has none of that digest. */
  find(digest: BlobDigest): Promise<StoredBlob | undefined>;
  close(): Promise<void>;
}

/** Reads files by their path in a folder or an archive; `undefined` where there is none. */
export type ReadEntry = (name: string) => Promise<StoredBlob | undefined>;

/**
 * Opens an OCI layout folder, a tar of one, or what `docker save` wrote; tars may be packed as a whole. An archive that is
 * both, as newer Docker versions write it, is read as an OCI layout.
 * @throws UnpackError IMAGE_NOT_FOUND when there is nothing, MANIFEST_INVALID when it is none of these; as openUnpacked
 */
export async function openImageArchive(path: string, signal?: AbortSignal): Promise<ImageArchive> {
  const found = await stat(path).catch((cause: unknown) => {
    const { code, message } = cause as NodeJS.ErrnoException;
    const gone = code === 'ENOENT' || code === 'ENOTDIR';
    throw new UnpackError('IMAGE_NOT_FOUND', gone ? `there is no ${path}` : `${path} can't be opened: ${message}`, {
      cause,
    });
  });
  if (found.isDirectory()) return openArchive(path, folderEntries(path), async () => {});
  if (!found.isFile()) {
    throw new UnpackError(
      'MANIFEST_INVALID',
      `${path} is neither a folder nor a file: save the archive to a file first`,
    );
  }
  const file = await openUnpacked(path, signal);
  try {
    return await openArchive(path, await tarEntries(file, path), () => file.close());
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function openArchive(path: string, entry: ReadEntry, close: () => Promise<void>): Promise<ImageArchive> {
  const [index, list] = [await entry('index.json'), await entry('manifest.json')];
  if (index !== undefined) {
    const { images } = readLayoutIndex(await whole(index, `${path}: index.json`), `${path}: index.json`);
    if (images.length > 0 || list === undefined) {
      const find = (digest: BlobDigest) => entry(`blobs/${algorithmOf(digest)}/${hexOf(digest)}`);
      return { path, images, find, close };
    }
  }
  if (list === undefined) throw await unknownArchive(path, entry);
  const { images, blobs } = await dockerSaveImages(await whole(list, `${path}: manifest.json`), entry, path);
  return { path, images, find: async (digest) => blobs.get(digest), close };
}

async function unknownArchive(path: string, entry: ReadEntry): Promise<UnpackError> {
  if ((await entry('repositories')) !== undefined) {
    return new UnpackError(
      'MANIFEST_INVALID',
      `${path} is what docker save wrote before Docker 1.10, without digests: docker load it and save it again with a newer version`,
    );
  }
  return new UnpackError(
    'MANIFEST_INVALID',
    `${path} has neither index.json (an OCI layout) nor manifest.json (docker save)`,
  );
}

/** The name in the archive that a name in its documents means. `undefined` for what would lead out of it. */
function inside(name: string): string | undefined {
  const normal = posix.normalize(name).replace(/^\/+/, '');
  return normal === '..' || normal.startsWith('../') ? undefined : normal;
}

function folderEntries(folder: string): ReadEntry {
  return async (given) => {
    const name = inside(given);
    if (name === undefined) return undefined;
    const path = join(folder, name);
    try {
      const found = await stat(path);
      if (!found.isFile()) return undefined;
      // opened for each read: an image may have more blobs than a process may have files
      return {
        size: found.size,
        async read(offset, length) {
          await using file = await open(path);
          return fileBlob(file, 0, found.size, path).read(offset, length);
        },
      };
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
      throw new UnpackError('SOURCE_DENIED', `${path} can't be read: ${message}`, { cause });
    }
  };
}

async function tarEntries(file: FileHandle, path: string): Promise<ReadEntry> {
  const files = await tarIndex(file, path);
  const folder = onlyFolder(files);
  return async (given) => {
    const name = inside(given);
    const found = name === undefined ? undefined : files.get(`${folder}${name}`);
    return found === undefined ? undefined : fileBlob(file, found.offset, found.size, `${path}: ${name}`);
  };
}

/** The folder that the whole archive lies in, where somebody packed the folder and not what is in it; else nothing. */
function onlyFolder(files: ReadonlyMap<string, unknown>): string {
  if (files.has('index.json') || files.has('manifest.json')) return '';
  const folders = new Set<string>();
  for (const name of files.keys()) folders.add(name.slice(0, name.indexOf('/') + 1));
  const [folder = ''] = folders;
  return folders.size === 1 ? folder : '';
}
