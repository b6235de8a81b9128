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

export function samePlatform(a: Platform, b: Platform): boolean {
  return formatPlatform(a) === formatPlatform(b);
}

/** The platform that this process runs on. */
export function hostPlatform(): Platform {
  return normalized({ os: 'linux', architecture: ARCHITECTURE[process.arch] ?? process.arch });
}

function normalized(platform: Platform): Platform {
  const { os, architecture } = platform;
  const variant = platform.variant === '' ? undefined : platform.variant;
  const fallback = architecture === 'arm64' ? 'v8' : architecture === 'arm' ? 'v7' : undefined;
  const settled = variant ?? fallback;
  // amd64/v1 is the baseline that a missing variant means
  if (settled === undefined || (architecture === 'amd64' && settled === 'v1')) return { os, architecture };
  return { os, architecture, variant: settled };
}
