import { createHash } from 'node:crypto';
import type { ChainId, DiffId } from './digest.ts';

/**
 * The chain IDs of a stack of layers, bottom-most first: chain(1) = diff(1), chain(n) = SHA-256 of the text
 * `chain(n-1) + " " + diff(n)` (OCI image spec, config.md#layer-chainid).
 */
export function chainIds(diffs: readonly DiffId[]): ChainId[] {
  const chain: ChainId[] = [];
  let parent: ChainId | undefined;
  for (const diff of diffs) {
    parent =
      parent === undefined
        ? (diff as string as ChainId)
        : (`sha256:${createHash('sha256').update(`${parent} ${diff}`).digest('hex')}` as ChainId);
    chain.push(parent);
  }
  return chain;
}
