import { createHash } from 'node:crypto';
import { UnpackError } from '../errors.ts';

declare const role: unique symbol;

/**
 * A valid `algorithm:hex` (OCI image spec, descriptor.md#digests). The brand distinguishes digests of blobs, of tars
 * and of chains.
 */
export type Digest = string & { readonly [role]: 'blob' | 'diff' | 'chain' };
/** The digest of stored bytes: a layer's blob, a manifest, an index or a config. */
export type BlobDigest = Digest & { readonly [role]: 'blob' };
/** The digest of a layer's uncompressed tar. */
export type DiffId = Digest & { readonly [role]: 'diff' };
/** The digest of a layer and all layers below it: see `chainIds`. */
export type ChainId = Digest & { readonly [role]: 'chain' };

export type DigestAlgorithm = 'sha256' | 'sha512';

const HEX_LENGTH: Readonly<Record<DigestAlgorithm, number>> = { sha256: 64, sha512: 128 };
const PATTERN = /^(sha256|sha512):([0-9a-f]+)$/;

export function isDigest(text: string): text is Digest {
  const match = PATTERN.exec(text);
  return match !== null && match[2]?.length === HEX_LENGTH[match[1] as DigestAlgorithm];
}

/** @throws UnpackError MANIFEST_INVALID if `text` is not a digest of a known algorithm */
function checked(text: string): Digest {
  if (!isDigest(text)) {
    throw new UnpackError(
      'MANIFEST_INVALID',
      `${JSON.stringify(text)} is not a digest: expected "sha256:" and 64, or "sha512:" and 128, lower-case hex digits`,
    );
  }
  return text;
}

export const blobDigest = (text: string): BlobDigest => checked(text) as BlobDigest;
export const diffId = (text: string): DiffId => checked(text) as DiffId;

export function algorithmOf(digest: Digest): DigestAlgorithm {
  return digest.slice(0, digest.indexOf(':')) as DigestAlgorithm;
}

export function hexOf(digest: Digest): string {
  return digest.slice(digest.indexOf(':') + 1);
}

/** The digest of bytes in memory. */
export function digestOf(bytes: Uint8Array, algorithm: DigestAlgorithm = 'sha256'): BlobDigest {
  return `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}` as BlobDigest;
}

/** A shortened digest for messages: `sha256:0123456789ab…`. */
export function shortDigest(digest: string): string {
  const colon = digest.indexOf(':');
  return digest.length > colon + 14 ? `${digest.slice(0, colon + 13)}…` : digest;
}

/** The chain IDs of a stack of layers, bottom-most first. */
export function chainIds(diffs: readonly DiffId[]): ChainId[] {
  const chain: ChainId[] = [];
  for (const diff of diffs) chain.push(childChainId(chain.at(-1), diff));
  return chain;
}

/**
 * The chain ID of a layer on its parent: the DiffID of a bottom layer, else the SHA-256 of the text
 * `parent + " " + DiffID` (OCI image spec, config.md#layer-chainid).
 */
export function childChainId(parent: ChainId | undefined, diff: DiffId): ChainId {
  if (parent === undefined) return diff as string as ChainId;
  return `sha256:${createHash('sha256').update(`${parent} ${diff}`).digest('hex')}` as ChainId;
}
