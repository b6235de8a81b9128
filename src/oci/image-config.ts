import * as z from 'zod';
import { UnpackError } from '../errors.ts';
import { type DiffId, isDigest } from './digest.ts';
import { parseJson } from './manifest.ts';
import type { Platform } from './platform.ts';

/** Most bytes of a config: long histories and labels make some bigger than any manifest. */
export const CONFIG_LIMIT = 8 * 1024 * 1024;

/** What unpacking needs of an image's config (image spec, config.md). */
export interface ImageConfig {
  /** Absent in configs that do not say, which old tools wrote. */
  readonly platform?: Platform;
  /** Bottom-most first. */
  readonly diffIds: readonly DiffId[];
}

const configSchema = z.object({
  os: z.string().nullish(),
  architecture: z.string().nullish(),
  variant: z.string().nullish(),
  rootfs: z.object(
    {
      type: z.literal('layers'),
      diff_ids: z.array(z.string().refine(isDigest, { error: 'not a sha256 or sha512 digest' })),
    },
    { error: 'an image config has a rootfs; this may be the config of an artifact' },
  ),
});

/**
 * An image's config from its bytes, which the caller has verified.
 * @throws UnpackError MANIFEST_INVALID
 */
export function parseConfig(bytes: Uint8Array, what: string): ImageConfig {
  const parsed = configSchema.safeParse(parseJson(bytes, what));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const field = issue?.path.join('.') || 'it';
    throw new UnpackError(
      'MANIFEST_INVALID',
      `${what} is not an image config: ${field}: ${issue?.message ?? 'wrong'}`,
      {
        cause: parsed.error,
      },
    );
  }
  const { os, architecture, variant, rootfs } = parsed.data;
  return {
    ...(os && architecture ? { platform: { os, architecture, ...(variant ? { variant } : {}) } } : {}),
    diffIds: rootfs.diff_ids.map((digest) => digest as string as DiffId), // checked above; these name tars
  };
}
