import { readPlatform } from './descriptor.ts';
import { type DiffId, isDigest } from './digest.ts';
import { fieldNames, JsonFields, JsonReading, readJson, shown } from './json-fields.ts';
import type { Platform } from './platform.ts';

/** Most bytes of a config: long histories and labels make some bigger than any manifest. */
export const CONFIG_LIMIT = 8 * 1024 * 1024;

/** What unpacking needs of an image's config (image spec, config.md). */
export interface ImageConfig {
  /** Absent in configs that do not say, which old tools wrote. */
  readonly platform?: Platform;
  /** Bottom-most first. */
  readonly diffIds: readonly DiffId[];
  /** Whether it speaks of a root file system at all, if only of one without layers. */
  readonly hasRootfs: boolean;
  /** What the config says otherwise than it should, and what it was taken for. */
  readonly warnings: readonly string[];
}

const CONFIG = fieldNames('rootfs');
const ROOTFS = fieldNames('type', 'diff_ids');

/**
 * An image's config from its bytes, which the caller has verified. Strict about the DiffIDs; what else a config says of
 * its root file system decides nothing.
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
    reading.warn(`rootfs.type is ${type === undefined ? 'missing' : shown(type)}, which was taken for "layers"`);
  }
  return fields.list('diff_ids').map((digest, index): DiffId => {
    if (typeof digest === 'string' && isDigest(digest)) return digest as string as DiffId; // these name tars
    const expected = 'a digest (sha256 or sha512, in lower-case hexadecimal)';
    throw reading.unexpected(`rootfs.diff_ids[${index}]`, expected, digest);
  });
}
