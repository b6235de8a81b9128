import { createHash } from 'node:crypto';

/** SHA-256 as hex of the output of a decompressor. Reading ahead must not overwrite the current piece, so it waits. */
export async function digestOfOutput(output: AsyncIterable<Buffer>): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of output) {
    await new Promise((resolve) => setImmediate(resolve));
    hash.update(piece);
  }
  return hash.digest('hex');
}

/** For `busy` of a decompressor: alternately another thread and this one. */
export function inTurn(): () => boolean {
  let here = false;
  return () => {
    here = !here;
    return here;
  };
}
