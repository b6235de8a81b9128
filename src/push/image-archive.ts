import { type FileHandle, open, stat } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { isMissing } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { algorithmOf, type BlobDigest, hexOf } from '../oci/digest.ts';
import { readLayoutIndex } from '../oci/image-index.ts';
import { openTar } from './compressed-archive.ts';
import { dockerSaveImages } from './docker-save.ts';
import { type FindFile, fileBlob, type LocalBlob, readWhole } from './local-blob.ts';
import { tarIndex } from './tar-index.ts';

/** The images in a folder or file on this machine, for push and for `unpackd apply`. The caller closes it. */
export interface ImageArchive {
  readonly path: string;
  /** The name of an image, if it has one, is in the annotation `org.opencontainers.image.ref.name`. */
  readonly images: readonly Descriptor[];
  /** `undefined` if there is no such blob. */
  find(digest: BlobDigest): Promise<LocalBlob | undefined>;
  close(): Promise<void>;
}

/**
 * Opens an OCI layout folder, a tar of one, or a `docker save` archive. A tar can be compressed. Archives of newer
 * Docker versions have both formats and are treated as OCI layouts.
 * @throws UnpackError IMAGE_NOT_FOUND if the path does not exist, MANIFEST_INVALID if it is none of these; and as `openTar`
 */
export async function openImageArchive(path: string, signal?: AbortSignal): Promise<ImageArchive> {
  const found = await stat(path).catch((cause: Error) => {
    const why = isMissing(cause) ? 'does not exist' : `can't be opened: ${cause.message}`;
    throw new UnpackError('IMAGE_NOT_FOUND', `${path} ${why}`, { cause });
  });
  if (found.isDirectory()) return openArchive(path, folderEntries(path), async () => {});
  if (!found.isFile()) {
    throw new UnpackError(
      'MANIFEST_INVALID',
      `${path} is neither a folder nor a file; save the archive to a file first`,
    );
  }
  const file = await openTar(path, signal);
  try {
    return await openArchive(path, await tarEntries(file, path), () => file.close());
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function openArchive(path: string, entry: FindFile, close: () => Promise<void>): Promise<ImageArchive> {
  const [index, list] = [await entry('index.json'), await entry('manifest.json')];
  if (index !== undefined) {
    const { images } = readLayoutIndex(await readWhole(index, `${path}: index.json`), `${path}: index.json`);
    if (images.length > 0 || list === undefined) {
      const find = (digest: BlobDigest) => entry(`blobs/${algorithmOf(digest)}/${hexOf(digest)}`);
      return { path, images, find, close };
    }
  }
  if (list === undefined) throw await unknownArchive(path, entry);
  const { images, blobs } = await dockerSaveImages(await readWhole(list, `${path}: manifest.json`), entry, path);
  return { path, images, find: async (digest) => blobs.get(digest), close };
}

async function unknownArchive(path: string, entry: FindFile): Promise<UnpackError> {
  if ((await entry('repositories')) !== undefined) {
    return new UnpackError(
      'MANIFEST_INVALID',
      `${path} was written by docker save before Docker 1.10, without digests; load and save it with a newer version`,
    );
  }
  return new UnpackError(
    'MANIFEST_INVALID',
    `${path} has neither index.json (an OCI layout) nor manifest.json (docker save)`,
  );
}

/** Normalizes a path from a document of the archive. `undefined` if it leads out of the archive. */
function inside(name: string): string | undefined {
  const normal = posix.normalize(name).replace(/^\/+/, '');
  return normal === '..' || normal.startsWith('../') ? undefined : normal;
}

function folderEntries(folder: string): FindFile {
  return async (given) => {
    const name = inside(given);
    if (name === undefined) return undefined;
    const path = join(folder, name);
    const found = await stat(path).catch((cause: Error) => {
      if (isMissing(cause)) return undefined;
      throw new UnpackError('SOURCE_DENIED', `${path} can't be read: ${cause.message}`, { cause });
    });
    if (found?.isFile() !== true) return undefined;
    const { size } = found;
    // opened for each read, because an image can have more blobs than the limit of open files
    return {
      size,
      async read(offset, length) {
        await using file = await open(path);
        return fileBlob(file, 0, size, path).read(offset, length);
      },
    };
  };
}

async function tarEntries(file: FileHandle, path: string): Promise<FindFile> {
  const files = await tarIndex(file, path);
  const folder = onlyFolder(files);
  return async (given) => {
    const name = inside(given);
    const found = name === undefined ? undefined : files.get(`${folder}${name}`);
    return found === undefined ? undefined : fileBlob(file, found.offset, found.size, `${path}: ${name}`);
  };
}

/** The folder that has all files of the archive, if the tar was made of a folder instead of its content. Else an empty string. */
function onlyFolder(files: ReadonlyMap<string, unknown>): string {
  if (files.has('index.json') || files.has('manifest.json')) return '';
  const folders = new Set<string>();
  for (const name of files.keys()) folders.add(name.slice(0, name.indexOf('/') + 1));
  const [folder = ''] = folders;
  return folders.size === 1 ? folder : '';
}
