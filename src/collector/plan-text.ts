import { bytesText, count } from '../units.ts';
import type { Amount } from './free-space.ts';
import type { Kept, Unit } from './plan.ts';

/** Plans in words, for the log of a worker, for failures and for `unpackd gc`. */

/** `registry.example/app:1.0 (linux/amd64)`, or the layer if no image has it. */
export function unitName({ top, images }: Unit): string {
  if (images.length === 0) return `the layer ${top}`;
  return images.map(({ reference, platform }) => `${reference}${platform === '' ? '' : ` (${platform})`}`).join(', ');
}

/** `3 images are pinned, 1 is used`; empty if everything could go. */
export function keptText(kept: readonly Kept[]): string {
  const counts = new Map<Kept['reason'], number>();
  for (const { reason } of kept) counts.set(reason, (counts.get(reason) ?? 0) + 1);
  const parts = (['pinned', 'used', 'below'] as const).flatMap((reason) => {
    const number = counts.get(reason);
    return number === undefined ? [] : `${number} ${reason === 'below' ? 'below such' : reason}`;
  });
  return parts.join(', ');
}

/** `3.2 GiB and 120000 inodes`; without the inodes if there are none. */
export function amountText({ bytes, inodes }: Amount): string {
  return inodes > 0 ? `${bytesText(bytes)} and ${count(inodes, 'inode')}` : bytesText(bytes);
}
