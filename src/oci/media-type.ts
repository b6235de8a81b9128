import { UnpackError } from '../errors.ts';

export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json';
export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
export const OCI_CONFIG = 'application/vnd.oci.image.config.v1+json';
export const DOCKER_LIST = 'application/vnd.docker.distribution.manifest.list.v2+json';
export const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json';
export const DOCKER_CONFIG = 'application/vnd.docker.container.image.v1+json';
const DOCKER_SCHEMA_1 = /^application\/vnd\.docker\.distribution\.manifest\.v1\+(json|prettyjws)$/;

export type Compression = 'gzip' | 'zstd' | 'none';

/** What a layer's media type promises about its bytes. */
const LAYER_COMPRESSION: Readonly<Record<string, Compression>> = {
  'application/vnd.oci.image.layer.v1.tar': 'none',
  'application/vnd.oci.image.layer.v1.tar+gzip': 'gzip',
  'application/vnd.oci.image.layer.v1.tar+zstd': 'zstd',
  'application/vnd.docker.image.rootfs.diff.tar': 'none',
  'application/vnd.docker.image.rootfs.diff.tar.gzip': 'gzip',
  'application/vnd.docker.image.rootfs.diff.tar.zstd': 'zstd',
};

const FOREIGN =
  /^application\/vnd\.(oci\.image\.layer\.nondistributable\.v1\.tar|docker\.image\.rootfs\.foreign\.diff\.tar)/;

export type DocumentKind = 'index' | 'manifest';

export function isSchema1(mediaType: string): boolean {
  return DOCKER_SCHEMA_1.test(mediaType);
}

export function documentKind(mediaType: string): DocumentKind | undefined {
  if (mediaType === OCI_INDEX || mediaType === DOCKER_LIST) return 'index';
  if (mediaType === OCI_MANIFEST || mediaType === DOCKER_MANIFEST) return 'manifest';
  return undefined;
}

/**
 * The compression that a layer's media type promises.
 * @throws UnpackError UNSUPPORTED_MEDIA_TYPE for foreign layers (their bytes are not in the mirror) and unknown types.
 */
export function layerCompression(mediaType: string): Compression {
  const compression = LAYER_COMPRESSION[mediaType];
  if (compression !== undefined) return compression;
  if (FOREIGN.test(mediaType)) {
    throw new UnpackError(
      'UNSUPPORTED_MEDIA_TYPE',
      `the layer is non-distributable (${mediaType}): its bytes must come from its publisher, not from a mirror; push a distributable copy`,
    );
  }
  throw new UnpackError(
    'UNSUPPORTED_MEDIA_TYPE',
    `${JSON.stringify(mediaType)} is not a layer media type; expected one of ${Object.keys(LAYER_COMPRESSION).join(', ')}`,
  );
}
