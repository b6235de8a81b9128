import { type FileHandle, open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { algorithmOf, type BlobDigest, hexOf, shortDigest } from '../oci/digest.ts';
import { parseIndex } from '../oci/manifest.ts';
import { dockerSaveImages } from './docker-save.ts';
import { fileBlob, type StoredBlob, whole } from './stored-blob.ts';
import { tarIndex } from './tar-index.ts';

/** The images of a folder or a file on this machine, to be pushed. */
export interface ImageArchive {
  readonly path: string;
  /** One for each image, with its name in the annotation `org.opencontainers.image.ref.name` where it has one. */
  readonly images: readonly Descriptor[];
  /** @throws UnpackError BLOB_NOT_FOUND */
  blob(digest: BlobDigest): Promise<StoredBlob>;
  close(): Promise<void>;
}

/** Reads files by their path in a folder or an archive; `undefined` where there is none. */
export type ReadEntry = (name: string) => Promise<StoredBlob | undefined>;

/**
 * Opens an OCI layout folder, a tar of one, or what `docker save` wrote. An archive that is both, as newer Docker
 * versions write it, is read as an OCI layout.
 * @throws UnpackError IMAGE_NOT_FOUND when there is nothing, MANIFEST_INVALID when it is none of these
 */
export async function openImageArchive(path: string): Promise<ImageArchive> {
  const found = await stat(path).catch((cause: unknown) => {
    throw new UnpackError('IMAGE_NOT_FOUND', `${path} can't be opened: ${(cause as Error).message}`, { cause });
  });
  if (found.isDirectory()) return openArchive(path, folderEntries(path), async () => {});
  const file = await open(path);
  try {
    return await openArchive(path, await tarEntries(file, path), () => file.close());
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function openArchive(path: string, entry: ReadEntry, close: () => Promise<void>): Promise<ImageArchive> {
  const index = await entry('index.json');
  if (index !== undefined) {
    const { manifests } = parseIndex(await whole(index, `${path}: index.json`), `${path}: index.json`);
    return {
      path,
      images: manifests.flatMap(({ descriptor }) => descriptor ?? []),
      async blob(digest) {
        const blob = await entry(`blobs/${algorithmOf(digest)}/${hexOf(digest)}`);
        return blob ?? missing(path, digest);
      },
      close,
    };
  }
  const list = await entry('manifest.json');
  if (list === undefined) {
    throw new UnpackError(
      'MANIFEST_INVALID',
      `${path} has neither index.json (an OCI layout) nor manifest.json (docker save)`,
    );
  }
  const { images, blobs } = await dockerSaveImages(await whole(list, `${path}: manifest.json`), entry, path);
  return { path, images, blob: async (digest) => blobs.get(digest) ?? missing(path, digest), close };
}

function folderEntries(folder: string): ReadEntry {
  return async (name) => {
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
  return async (name) => {
    const found = files.get(name);
    return found === undefined ? undefined : fileBlob(file, found.offset, found.size, `${path}: ${name}`);
  };
}

function missing(path: string, digest: BlobDigest): never {
  throw new UnpackError('BLOB_NOT_FOUND', `${path} lacks the blob ${shortDigest(digest)}; the image is not complete`, {
    details: { digest },
  });
}
