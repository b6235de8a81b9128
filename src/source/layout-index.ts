import { UnpackError } from '../errors.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { readEntries } from '../oci/image-index.ts';
import { parseJson } from '../oci/json-fields.ts';
import { type Platform, suitability } from '../oci/platform.ts';

/** An index.json, and what it lists that can be found. @throws UnpackError MANIFEST_INVALID when it is none */
export function readLayoutIndex(
  bytes: Buffer,
  what: string,
): { readonly fields: Readonly<Record<string, unknown>>; readonly images: readonly Descriptor[] } {
  const fields = parseJson(bytes, what);
  const isIndex = typeof fields === 'object' && fields !== null && 'manifests' in fields && !('layers' in fields);
  const manifests: unknown = isIndex ? (fields.manifests ?? []) : undefined;
  if (!isIndex || !Array.isArray(manifests)) {
    throw new UnpackError('MANIFEST_INVALID', `${what} is not an image index: it has no list "manifests"`);
  }
  return { fields: { ...fields }, images: readEntries(manifests, what).flatMap(({ descriptor }) => descriptor ?? []) };
}

/** Those for the platform, or for the best other one that runs on it; several may be for the same. */
export function bestOf<T>(all: readonly T[], wanted: Platform, platformsOf: (one: T) => readonly Platform[]): T[] {
  const rankOf = suitability(wanted);
  const ranked = all.flatMap((one) => {
    const ranks = platformsOf(one).flatMap((platform) => rankOf(platform) ?? []);
    return ranks.length === 0 ? [] : [{ one, rank: Math.min(...ranks) }];
  });
  const best = Math.min(...ranked.map(({ rank }) => rank));
  return ranked.filter(({ rank }) => rank === best).map(({ one }) => one);
}

/** A descriptor as it is written into an index. */
export function descriptorJson({ platform, ...rest }: Descriptor): object {
  if (platform === undefined) return rest;
  const { osFeatures, ...named } = platform;
  return { ...rest, platform: osFeatures === undefined ? named : { ...named, 'os.features': osFeatures } };
}
