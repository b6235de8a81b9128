import { readPlatform } from './descriptor.ts';
import { type DiffId, isDigest } from './digest.ts';
import { fieldNames, JsonFields, JsonReading, readJson, shown } from './json-fields.ts';
import type { Platform } from './platform.ts';

/** Maximum size of a config in bytes. It is larger than for a manifest, because the history in a config can be long. */
export const CONFIG_LIMIT = 8 * 1024 * 1024;

/** The fields of an image's config that unpacking needs (OCI image spec, config.md). */
export interface ImageConfig {
  /** Absent in some configs of old tools. */
  readonly platform?: Platform;
  /** Bottom-most first. */
  readonly diffIds: readonly DiffId[];
  /** Whether the config has the field `rootfs`. */
  readonly hasRootfs: boolean;
  /** Deviations from the specification, and what each was treated as. */
  readonly warnings: readonly string[];
}

const CONFIG = fieldNames('rootfs');
const ROOTFS = fieldNames('type', 'diff_ids');

/**
 * Parses an image's config. Strict about the DiffIDs, lenient about all other fields.
 * @param bytes verified by the caller
 * @param what the name of the config in messages
 * @throws UnpackError MANIFEST_INVALID
 */
export function parseConfig(bytes: Uint8Array, what: string): ImageConfig {
  const reading = new JsonReading(what);
  const value = readJson(bytes, reading);
  const rootfs = new JsonFields(value, CONFIG, reading).get('rootfs');
  const platform = readPlatform(value, reading, '');
  return {
    ...(platform === undefined ? {} : { platform }),
    diffIds: rootfs === undefined ? [] : diffIdsOf(rootfs, reading),
    hasRootfs: rootfs !== undefined,
    warnings: reading.warnings,
  };
}

function diffIdsOf(rootfs: unknown, reading: JsonReading): DiffId[] {
  const fields = new JsonFields(rootfs, ROOTFS, reading, 'rootfs');
  const type = fields.get('type');
  if (type !== 'layers') {
    reading.warn(`rootfs.type is ${type === undefined ? 'missing' : shown(type)}; treated as "layers"`);
  }
  return fields.list('diff_ids').map((digest, index): DiffId => {
    if (typeof digest === 'string' && isDigest(digest)) return digest as string as DiffId; // `as`: checked, and these are digests of tars
    const expected = 'a digest (sha256 or sha512, in lower-case hexadecimal)';
    throw reading.unexpected(`rootfs.diff_ids[${index}]`, expected, digest);
  });
}
