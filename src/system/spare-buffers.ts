/** Of each length; a layer has two of its largest kind. */
const KEPT = 4;

const spare = new Map<number, Buffer[]>();

/**
 * A large buffer, with any content, for who gives it back: a thread that applies small layers one after the other would
 * spend a tenth of its time on getting rid of those of the layers before.
 */
export function borrowBuffer(length: number): Buffer {
  return spare.get(length)?.pop() ?? Buffer.allocUnsafeSlow(length);
}

/** Once nobody reads or writes it any more, other threads included. */
export function giveBackBuffer(buffer: Buffer): void {
  const kept = spare.get(buffer.length) ?? [];
  if (kept.length < KEPT) kept.push(buffer);
  spare.set(buffer.length, kept);
}
