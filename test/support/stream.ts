import { createHash } from 'node:crypto';

/** SHA-256, as hex, of all that a decompressor gives; what it does ahead must not overwrite the piece in hand. */
export async function digestOfOutput(output: AsyncIterable<Buffer>): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of output) {
    await new Promise((resolve) => setImmediate(resolve));
    hash.update(piece);
  }
  return hash.digest('hex');
}

/** For `busy` of a decompressor: one piece on another thread, the next on this one. */
export function inTurn(): () => boolean {
  let here = false;
  return () => {
    here = !here;
    return here;
  };
}
