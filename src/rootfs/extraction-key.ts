import { randomBytes } from 'node:crypto';
import { type ChainId, isDigest } from '../oci/digest.ts';

/** What all of these keys begin with. */
export const EXTRACTION = 'extract-';

/** `extract-<unique> <chain ID>`, as containerd names the snapshots that it extracts into. */
export function extractionKey(chainId: ChainId): string {
  return `${EXTRACTION}${unique()} ${chainId}`;
}

/** The key of the view through which a chain's lower layers are looked at. */
export function viewKey(chainId: ChainId): string {
  return `${EXTRACTION}view-${unique()} ${chainId}`;
}

/** The chain ID that a key of the above was made for; `undefined` for any other key. */
export function chainIdOfKey(key: string): ChainId | undefined {
  const match = /^extract-\S+ (\S+)$/.exec(key);
  const chainId = match?.[1];
  return chainId !== undefined && isDigest(chainId) ? (chainId as string as ChainId) : undefined;
}

/** Nanoseconds within the second and three random bytes: what containerd uses. */
function unique(): string {
  return `${process.hrtime.bigint() % 1_000_000_000n}-${randomBytes(3).toString('base64url')}`;
}
