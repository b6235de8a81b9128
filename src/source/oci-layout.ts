import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { throwIfAborted, UnpackError } from '../errors.ts';
import { algorithmOf, type BlobDigest, hexOf } from '../oci/digest.ts';
import { findTag, readLayoutIndex } from '../oci/image-index.ts';
import { nameLike } from '../oci/image-names.ts';
import { DOCUMENT_LIMIT, parseIndex } from '../oci/manifest.ts';
import type { BlobSource } from './blob-source.ts';
import { fileError, openFileBlob } from './file-blob.ts';
import type { OciLayoutSpec } from './source-spec.ts';

export type { OciLayoutSpec } from './source-spec.ts';

/** The images of a local folder (image spec, image-layout.md), behind the same interface as a bucket. */
export function openOciLayout(spec: OciLayoutSpec): BlobSource {
  const { path: root } = spec;
  const blobPath = (digest: BlobDigest): string => join(root, 'blobs', algorithmOf(digest), hexOf(digest));
  return {
    name: root,
    maxResumes: 0,
    open: (digest, options) => openFileBlob(blobPath(digest), digest, options),
    grant: async ({ digest }) => ({ kind: 'file', name: root, path: blobPath(digest) }),
    async resolveTag(tag, signal) {
      throwIfAborted(signal);
      const path = join(root, 'index.json');
      const length = (await stat(path).catch((cause) => Promise.reject(fileError(cause, path, 'IMAGE_NOT_FOUND'))))
        .size;
      if (length > DOCUMENT_LIMIT) {
        throw new UnpackError('LIMIT_EXCEEDED', `${path} has ${length} bytes; an index may have ${DOCUMENT_LIMIT}`);
      }
      const bytes = await readFile(path);
      const name = nameLike(readLayoutIndex(bytes, path).images, tag) ?? tag;
      return findTag(parseIndex(bytes, path), name, path);
    },
    close() {},
  };
}
