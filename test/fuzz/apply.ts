import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Below } from '../../src/diff/target.ts';
import { applyTar } from '../support/apply.ts';
import type { Sandbox } from '../support/sandbox.ts';
import { type Outcome, refusal, sameOutcome, show } from './outcome.ts';
import { LIMITS } from './read.ts';
import { describeTree } from './tree.ts';

/**
 * Applies an archive twice: in one piece with openat2, and in small pieces without it.
 * @throws if a file outside the root changes, if the two results differ, or for an error that is no refusal
 */
export function checkApplying(archive: Buffer, cut: number, below: Below, sandbox: Sandbox): Outcome {
  const since = BigInt(Date.now() - 100) * 1_000_000n;
  try {
    const [first, second] = sandbox.roots.map((root, i) => {
      if (below === 'parent') putLayerBelow(root, sandbox.outside);
      return applied(archive, root, below, i === 0 ? { useOpenat2: true } : { useOpenat2: false, cut }, since);
    });
    if (first === undefined || second === undefined) throw new Error('there are two roots');
    sandbox.check();
    if (!sameOutcome(first.outcome, second.outcome)) {
      throw new Error(`with openat2: ${show(first.outcome)}; without, in pieces of ${cut}: ${show(second.outcome)}`);
    }
    // an error in the middle of a file's content may have come before or after a piece of it was written
    if (first.outcome === 'ok' && first.tree !== second.tree) {
      throw new Error(`the two trees differ:\n${first.tree}\n---\n${second.tree}`);
    }
    return first.outcome;
  } finally {
    sandbox.clean();
  }
}

/** Files of a lower layer, with links out of the root. */
function putLayerBelow(root: string, outside: string): void {
  mkdirSync(join(root, 'a/b/c'), { recursive: true });
  mkdirSync(join(root, 'd/a/deep'), { recursive: true });
  for (const path of ['a/f', 'a/b/a', 'a/b/c/a', 'b', 'd/a/deep/canary']) writeFileSync(join(root, path), path);
  symlinkSync(outside, join(root, 'l'));
  symlinkSync('../outside/canary', join(root, 'm'));
}

function applied(
  archive: Buffer,
  root: string,
  below: Below,
  options: { readonly useOpenat2: boolean; readonly cut?: number },
  since: bigint,
): { outcome: Outcome; tree: string } {
  let outcome: Outcome = 'ok';
  try {
    applyTar(archive, { root, below }, { limits: LIMITS, ...options });
  } catch (error) {
    outcome = refusal(error);
  }
  return { outcome, tree: outcome === 'ok' ? describeTree(root, since) : '' };
}
