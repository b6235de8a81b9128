import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { TarReader } from '../../src/archive/tar-reader.ts';
import { LayerWriter } from '../../src/diff/layer-writer.ts';
import type { PassFindings } from '../../src/diff/second-pass.ts';
import type { DiffTarget } from '../../src/diff/target.ts';
import { lentNow } from './lent.ts';

export const LIMITS = {
  uncompressedBytes: 2 ** 36,
  entries: 1_000_000,
  entryMetadataBytes: 1 << 20,
  memoryBytes: 512 << 20,
};

/** How layers are applied in tests. */
export const SETTINGS = { limits: LIMITS, native: true };

export interface ApplyTarOptions {
  /** Bytes given to the reader at once; archives must come out the same however they are cut. */
  readonly cut?: number;
  readonly useOpenat2?: boolean;
  readonly limits?: Partial<typeof LIMITS>;
  readonly findings?: PassFindings | undefined;
}

/** A directory to write a bottom layer to, unless told otherwise. */
export function diffTarget(target: Partial<DiffTarget> & { root: string }): DiffTarget {
  return {
    lowers: [],
    below: 'nothing',
    opaqueXattr: 'trusted.overlay.opaque',
    ownership: 'keep',
    collectedBy: 'unpackd',
    copied: false,
    ...target,
  };
}

/** Applies an archive to a directory as the apply thread does. `again`: findings, if a second pass is needed. */
export function applyTar(
  archive: Buffer,
  target: Partial<DiffTarget> & { root: string },
  options: ApplyTarOptions = {},
) {
  const whole = diffTarget(target);
  using writer = new LayerWriter(whole, { memoryBytes: LIMITS.memoryBytes, ...options });
  const reader = new TarReader(writer, { ...LIMITS, ...options.limits });
  for (const piece of lentNow(archive, options.cut)) reader.write(piece);
  reader.finish();
  writer.finish();
  const { warnings, needsSecondPass, findings, usage } = writer.copyParentAttributes();
  return { warnings, usage, entries: reader.entries, again: needsSecondPass ? findings : undefined };
}

/** A fresh directory `name` in `parent`. */
export function folder(parent: string, name: string): string {
  const path = join(parent, name);
  mkdirSync(path, { recursive: true });
  return path;
}
