import { UnpackError } from '../errors.ts';

/** OCI image spec, image-index.md. */
export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string;
}

const ARCHITECTURE: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64', arm: 'arm', ia32: '386' };

/** `os/architecture[/variant]`, normalized: `linux/arm64` is `linux/arm64/v8`, `linux/arm` is `linux/arm/v7`. */
export function formatPlatform(platform: Platform): string {
  const { os, architecture, variant } = normalized(platform);
  return variant === undefined ? `${os}/${architecture}` : `${os}/${architecture}/${variant}`;
}

/** @throws UnpackError INVALID_JOB when `text` is not `os/architecture[/variant]`. */
export function parsePlatform(text: string): Platform {
  const [os, architecture, variant, ...rest] = text.split('/');
  if (!os || !architecture || variant === '' || rest.length > 0) {
    throw new UnpackError(
      'INVALID_JOB',
      `${JSON.stringify(text)} is not a platform: write os/architecture or os/architecture/variant, as in linux/arm64/v8`,
    );
  }
  return normalized(variant === undefined ? { os, architecture } : { os, architecture, variant });
}

/** The platform that this process runs on. */
export function hostPlatform(): Platform {
  return normalized({ os: 'linux', architecture: ARCHITECTURE[process.arch] ?? process.arch });
}

/**
 * The platforms whose images run on `platform`, best first: its own, then older variants of the same architecture, as
 * containerd's `platforms.Only` orders them (arm/v7, v6, v5; arm64/v9, v8; amd64/v3, v2, v1). Not taken from there:
 * 32-bit arm images on an arm64 host, which not every such processor runs.
 */
export function runsOn(platform: Platform): Platform[] {
  const { os, architecture, variant } = normalized(platform);
  const oldest = OLDEST_VARIANT[architecture];
  const own = /^v(\d{1,2})(\.\d+)?$/.exec(variant ?? (architecture === 'amd64' ? 'v1' : ''));
  const all: Platform[] = [normalized(platform)];
  if (oldest === undefined || own === null) return all;
  const major = Number(own[1]);
  for (let older = own[2] === undefined ? major - 1 : major; older >= oldest; older -= 1) {
    all.push(normalized({ os, architecture, variant: `v${older}` }));
  }
  return all;
}

const OLDEST_VARIANT: Readonly<Record<string, number>> = { arm: 5, arm64: 8, amd64: 1 };

/** Other names of the same thing, as containerd's `platforms.Normalize` knows them. */
const ALIAS: Readonly<Record<string, readonly [architecture: string, variant?: string]>> = {
  aarch64: ['arm64'],
  armhf: ['arm', 'v7'],
  armel: ['arm', 'v6'],
  i386: ['386'],
  x86_64: ['amd64'],
  'x86-64': ['amd64'],
};

function normalized(platform: Platform): Platform {
  const os = platform.os.toLowerCase();
  const named = platform.architecture.toLowerCase();
  const [architecture, implied] = ALIAS[named] ?? [named];
  const given = platform.variant?.toLowerCase().replace(/^(?=\d)/, 'v') || undefined;
  const variant = given ?? implied;
  const fallback = architecture === 'arm64' ? 'v8' : architecture === 'arm' ? 'v7' : undefined;
  const settled = variant ?? fallback;
  // amd64/v1 is the baseline that a missing variant means
  if (settled === undefined || (architecture === 'amd64' && settled === 'v1')) return { os, architecture };
  return { os, architecture, variant: settled };
}
