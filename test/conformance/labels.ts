import { gzipSync, zstdCompressSync } from 'node:zlib';
import { type DiffId, digestOf } from '../../src/oci/digest.ts';
import type { StoredLayer } from './containerd.ts';

const OCI = 'application/vnd.oci.image.layer.v1.tar';
const DOCKER = 'application/vnd.docker.image.rootfs.diff.tar';
const TYPES = [OCI, `${OCI}+gzip`, `${OCI}+zstd`, DOCKER, `${DOCKER}.gzip`, `${DOCKER}.zstd`];

/** A skippable frame of three bytes (RFC 8878, 3.1.2). */
const SKIPPABLE = Buffer.from('5c2a4d1803000000616263', 'hex');

/** Ways to store a tar. */
const WAYS: readonly ((archive: Buffer) => Buffer)[] = [
  (archive) => archive,
  (archive) => gzipSync(archive, { level: 1 }),
  (archive) => Buffer.concat([gzipSync(archive.subarray(0, 700)), gzipSync(archive.subarray(700))]),
  (archive) => zstdCompressSync(archive),
  (archive) => Buffer.concat([SKIPPABLE, zstdCompressSync(archive)]),
];

/** The same archive always gets the same form and label, so that results can be repeated. */
function stored(archive: Buffer, label: 'any' | 'true'): StoredLayer {
  const digest = digestOf(archive);
  const [way = 0, type = 0] = Buffer.from(digest.slice('sha256:'.length), 'hex');
  const bytes = archive.length === 0 ? archive : (WAYS[way % WAYS.length]?.(archive) ?? archive);
  // containerd looks at the bytes too, except for OCI's media type of an uncompressed layer
  const truth = bytes === archive ? OCI : `${DOCKER}.gzip`;
  const mediaType = label === 'true' ? truth : (TYPES[type % TYPES.length] ?? truth);
  return {
    diff: { digest: digest as string as DiffId },
    blob: { mediaType, digest: digestOf(bytes), size: bytes.length },
    bytes,
  };
}

/** A layer stored in one of these forms, with any label. */
export const labelled = (archive: Buffer): StoredLayer => stored(archive, 'any');

/** A layer stored in one of these forms, with a label that containerd accepts. */
export const truly = (archive: Buffer): StoredLayer => stored(archive, 'true');
