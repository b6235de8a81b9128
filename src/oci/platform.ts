import { UnpackError } from '../errors.ts';

/** OCI image spec, image-index.md. */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
  /** `os.features`: features of the operating system that the image needs. */
  readonly osFeatures?: readonly string[];
}

const ARCHITECTURE: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64', arm: 'arm', ia32: '386' };

/** `os/architecture[/variant]`, normalized: `linux/arm64` is `linux/arm64/v8`, `linux/arm` is `linux/arm/v7`. */
export function formatPlatform(platform: Platform): string {
  const { os, architecture, variant } = normalized(platform);
  return variant === undefined ? `${os}/${architecture}` : `${os}/${architecture}/${variant}`;
}

/** As `formatPlatform`, with the required features: `linux(+nydus.remoteimage.v1)/amd64`. */
export function describePlatform(platform: Platform): string {
  const features = featuresOf(platform);
  if (features.length === 0) return formatPlatform(platform);
  return formatPlatform(platform).replace('/', `(${features.map((one) => `+${one}`).join('')})/`);
}

/** @throws UnpackError INVALID_JOB if `text` is not `os/architecture[/variant]` */
export function parsePlatform(text: string): Platform {
  const [os, architecture, variant, ...rest] = text.split('/');
  if (!os || !architecture || variant === '' || rest.length > 0) {
    throw new UnpackError(
      'INVALID_JOB',
      `${JSON.stringify(text)} is not a platform: write os/architecture or os/architecture/variant, for example linux/arm64/v8`,
    );
  }
  return normalized(variant === undefined ? { os, architecture } : { os, architecture, variant });
}

/** The platform that this process runs on. */
export function hostPlatform(): Platform {
  return normalized({ os: 'linux', architecture: ARCHITECTURE[process.arch] ?? process.arch });
}

/**
 * Ranks platforms of images for a wanted platform: 0 is best, `undefined` does not run. An image that needs features of the
 * operating system does not run, because a wanted platform has none. On Windows, `win32k` is ignored (containerd,
 * platforms/platforms.go, `Match`).
 */
export function suitability(wanted: Platform): (platform: Platform) => number | undefined {
  const ranks = new Map(runsOn(wanted).map((platform, rank) => [formatPlatform(platform), rank]));
  return (platform) => (featuresOf(platform).length > 0 ? undefined : ranks.get(formatPlatform(platform)));
}

/** The items for the most suitable platform that runs on `wanted`. Several items can have the same platform. */
export function mostSuitable<T>(
  items: readonly T[],
  wanted: Platform,
  platformsOf: (item: T) => readonly Platform[],
): T[] {
  const rankOf = suitability(wanted);
  const ranked = items.flatMap((item) => {
    const ranks = platformsOf(item).flatMap((platform) => rankOf(platform) ?? []);
    return ranks.length === 0 ? [] : [{ item, rank: Math.min(...ranks) }];
  });
  const best = Math.min(...ranked.map(({ rank }) => rank));
  return ranked.filter(({ rank }) => rank === best).map(({ item }) => item);
}

/**
 * The platforms whose images run on `platform`, best first, in the order of containerd's `platforms.Only`: the platform
 * itself, older variants of its architecture, then the 32-bit architecture that these processors support.
 */
export function runsOn(platform: Platform): Platform[] {
  const { os, architecture, variant } = normalized(platform);
  const same = (variants: readonly string[]) => variants.map((one) => normalized({ os, architecture, variant: one }));
  switch (architecture) {
    case 'amd64':
      return [...same(variantsDownTo(1, variant ?? 'v1')), { os, architecture: '386' }];
    case 'arm':
      return same(variantsDownTo(5, variant ?? 'v7'));
    case 'arm64':
      return [...same(armVariants(variant ?? 'v8')), ...runsOn({ os, architecture: 'arm', variant: 'v8' })];
    default:
      return [normalized(platform)];
  }
}

/** `v3`, `v2`, `v1`. */
function variantsDownTo(oldest: number, variant: string): string[] {
  const major = Number(/^v(\d{1,2})$/.exec(variant)?.[1] ?? 0);
  const older = Array.from({ length: Math.max(0, major - oldest) }, (_, index) => `v${major - 1 - index}`);
  return [variant, ...older];
}

/** Arm v9.N includes v8.(N+5), up to v8.9 (Arm Architecture Reference Manual, A2.1). */
const NEWEST_V8 = 9;

function armVariants(variant: string): string[] {
  const [, major, minor] = /^v([89])(?:\.(\d))?$/.exec(variant) ?? [];
  if (major === undefined) return [variant];
  const from = (of: number, newest: number) =>
    Array.from({ length: newest + 1 }, (_, index) => (index === newest ? `v${of}` : `v${of}.${newest - index}`));
  const own = Number(minor ?? 0);
  return major === '8' ? from(8, own) : [...from(9, own), ...from(8, Math.min(NEWEST_V8, own + 5))];
}

/** Other names of architectures, from containerd's `platforms.Normalize`. */
const ALIAS = new Map<string, readonly [architecture: string, variant?: string]>([
  ['aarch64', ['arm64']],
  ['armhf', ['arm', 'v7']],
  ['armel', ['arm', 'v6']],
  ['i386', ['386', '']],
  ['x86_64', ['amd64']],
  ['x86-64', ['amd64']],
]);

const DEFAULT_VARIANT = new Map([
  ['arm64', 'v8'],
  ['arm', 'v7'],
]);

function normalized(platform: Platform): Platform {
  const named = platform.architecture.toLowerCase();
  const [architecture, implied] = ALIAS.get(named) ?? [named];
  const { osFeatures } = platform;
  const given =
    platform.variant
      ?.toLowerCase()
      .replace(/^(?=\d)/, 'v')
      .replace(/^(v\d+)\.0$/, '$1') || undefined;
  const variant = (implied ?? given ?? DEFAULT_VARIANT.get(architecture)) || undefined;
  const os = platform.os.toLowerCase();
  return {
    os: os === 'macos' ? 'darwin' : os,
    architecture,
    // amd64/v1 is the baseline that a missing variant means
    ...(variant === undefined || (architecture === 'amd64' && variant === 'v1') ? {} : { variant }),
    ...(osFeatures === undefined ? {} : { osFeatures }),
  };
}

function featuresOf({ os, osFeatures = [] }: Platform): string[] {
  const isWindows = os.toLowerCase() === 'windows';
  return osFeatures.filter((feature) => feature !== '' && !(isWindows && feature === 'win32k'));
}
