import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { throwIfAborted, UnpackError } from '../errors.ts';
import { algorithmOf, type BlobDigest, hexOf } from '../oci/digest.ts';
import { findTag, readLayoutIndex } from '../oci/image-index.ts';
import { nameLike } from '../oci/image-names.ts';
import { DOCUMENT_LIMIT, parseIndex } from '../oci/manifest.ts';
import type { BlobSource, TagTarget } from './blob-source.ts';
import { fileError, openFileBlob } from './file-blob.ts';
import type { OciLayoutSpec } from './source-spec.ts';

/** A source for the images of a local folder (OCI image spec, image-layout.md). */
export function openOciLayout({ path: root }: OciLayoutSpec): BlobSource {
  const blobPath = (digest: BlobDigest): string => join(root, 'blobs', algorithmOf(digest), hexOf(digest));
  return {
    name: root,
    maxResumes: 0,
    open: (digest, options) => openFileBlob(blobPath(digest), digest, options),
    grant: async ({ digest }) => ({ kind: 'file', name: root, path: blobPath(digest) }),
    async resolveTag(tag, signal) {
      throwIfAborted(signal);
      return resolveTag(join(root, 'index.json'), tag);
    },
    close() {},
  };
}

/** @param wanted the name in the index, the same name in Docker's short form, or the tag of the name */
async function resolveTag(path: string, wanted: string): Promise<TagTarget> {
  const { size } = await stat(path).catch((cause) => Promise.reject(fileError(cause, path, 'IMAGE_NOT_FOUND')));
  if (size > DOCUMENT_LIMIT) {
    throw new UnpackError('LIMIT_EXCEEDED', `${path} has ${size} bytes; the limit for an index is ${DOCUMENT_LIMIT}`);
  }
  const bytes = await readFile(path);
  const name = nameLike(readLayoutIndex(bytes, path).images, wanted) ?? wanted;
  return findTag(parseIndex(bytes, path), name, path);
}
