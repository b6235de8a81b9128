import { UnpackError } from '../errors.ts';

export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json';
export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
export const OCI_CONFIG = 'application/vnd.oci.image.config.v1+json';
export const DOCKER_LIST = 'application/vnd.docker.distribution.manifest.list.v2+json';
export const DOCKER_MANIFEST = 'application/vnd.docker.distribution.manifest.v2+json';
export const DOCKER_CONFIG = 'application/vnd.docker.container.image.v1+json';
const OCI_LAYER = 'application/vnd.oci.image.layer.v1.tar';
const DOCKER_LAYER = 'application/vnd.docker.image.rootfs.diff.tar';
const DOCKER_SCHEMA_1 = /^application\/vnd\.docker\.distribution\.manifest\.v1\+(json|prettyjws)$/;

const ARTIFACT_CONFIG = /^application\/vnd\.(?:oci\.empty|cncf|wasm)\./;

const NAMES_NOTHING = new Set(['', 'application/octet-stream', 'binary/octet-stream', 'application/json']);

export type Compression = 'gzip' | 'zstd' | 'none';

/** The layer types of the OCI image spec (layer.md) and of Docker schema 2. */
const LAYER_TYPES: ReadonlySet<string> = new Set([
  ...['', '+gzip', '+zstd'].flatMap((suffix) => [
    `application/vnd.oci.image.layer.v1.tar${suffix}`,
    `application/vnd.oci.image.layer.nondistributable.v1.tar${suffix}`,
  ]),
  ...['', '.gzip', '.zstd'].flatMap((suffix) => [
    `application/vnd.docker.image.rootfs.diff.tar${suffix}`,
    `application/vnd.docker.image.rootfs.foreign.diff.tar${suffix}`,
  ]),
]);

/** The same types with any suffix, because containerd only compares the beginning. */
const LAYER =
  /^application\/vnd\.(?:oci\.image\.layer\.(?<oci>nondistributable\.)?v1|docker\.image\.rootfs\.(?<docker>foreign\.)?diff)\.tar(?<ending>(?:\.(?:gzip|gz|zstd|zst))?(?:\+[^+]*)*)$/;

/** The properties of a layer in its media type. */
export interface LayerType {
  /** The declared compression. The bytes of the blob decide. */
  readonly compression: Compression;
  /** Non-distributable ("foreign"): its publisher serves it from another place, so the mirror possibly lacks it. */
  readonly foreign: boolean;
  /** Whether the type is spelled as in the specifications. */
  readonly exact: boolean;
}

export type DocumentKind = 'index' | 'manifest';

/** A media type for comparison: in lower case and without parameters. */
export function plainType(mediaType: string): string {
  return (mediaType.split(';', 1)[0] ?? '').trim().toLowerCase();
}

export function isSchema1(mediaType: string): boolean {
  return DOCKER_SCHEMA_1.test(plainType(mediaType));
}

export function documentKind(mediaType: string): DocumentKind | undefined {
  const plain = plainType(mediaType);
  if (plain === OCI_INDEX || plain === DOCKER_LIST) return 'index';
  if (plain === OCI_MANIFEST || plain === DOCKER_MANIFEST) return 'manifest';
  return undefined;
}

/** Whether the media type is that of an image's config. */
export function isConfigType(mediaType: string): boolean {
  const plain = plainType(mediaType);
  return plain === OCI_CONFIG || plain === DOCKER_CONFIG;
}

/** Whether the media type of a config is that of an artifact: the empty config, Helm, WebAssembly. */
export function isArtifactConfig(mediaType: string): boolean {
  return ARTIFACT_CONFIG.test(plainType(mediaType));
}

/**
 * Whether the media type of a document is empty or generic, as some tools and web servers write it. Docker's engine accepts
 * these types for images as well (moby, distribution/registry.go, from distribution/distribution#1621).
 */
export function namesNothing(mediaType: string): boolean {
  const plain = plainType(mediaType);
  return NAMES_NOTHING.has(plain) || plain.startsWith('text/');
}

/**
 * Parses the media type of a layer.
 * @throws UnpackError UNSUPPORTED_MEDIA_TYPE for other types, and for encrypted layers
 */
export function layerType(mediaType: string): LayerType {
  const groups = LAYER.exec(plainType(mediaType))?.groups;
  if (groups === undefined) {
    throw new UnpackError(
      'UNSUPPORTED_MEDIA_TYPE',
      `${JSON.stringify(mediaType)} is not a layer media type; layers are of ${OCI_LAYER} or ${DOCKER_LAYER}, plain or compressed`,
    );
  }
  const ending = groups.ending ?? '';
  if (ending.includes('+encrypted')) {
    throw new UnpackError(
      'UNSUPPORTED_MEDIA_TYPE',
      `the layer is encrypted (${mediaType}), and there is no key for it here; push a decrypted copy`,
    );
  }
  return {
    compression: ending.includes('zst') ? 'zstd' : ending.includes('gz') ? 'gzip' : 'none',
    foreign: groups.oci !== undefined || groups.docker !== undefined,
    exact: LAYER_TYPES.has(mediaType),
  };
}

/** The declared compression of a layer. @throws UnpackError as `layerType` */
export function layerCompression(mediaType: string): Compression {
  return layerType(mediaType).compression;
}
