import type { LayerTotals, ReadEntry } from './read-layer.ts';

/** Where two layers differ, entry by entry. */
export type EntryDifference =
  | { readonly kind: 'only'; readonly side: 'a' | 'b'; readonly entry: ReadEntry }
  /** Both have it: the same name, and the same one of several of that name. */
  | { readonly kind: 'both'; readonly a: ReadEntry; readonly b: ReadEntry };

export interface Comparison {
  readonly a: LayerTotals;
  readonly b: LayerTotals;
  /** Every entry of one has its counterpart at the same place in the other. */
  readonly sameOrder: boolean;
}

type Layer = AsyncGenerator<readonly ReadEntry[], LayerTotals, undefined>;

/**
 * Pairs the entries of two layers by name, both read at once: what has found its counterpart is passed on and forgotten,
 * so that memory holds only what is at another place in the other layer.
 * @returns when both are read
 */
export async function* pairEntries(a: Layer, b: Layer): AsyncGenerator<EntryDifference, Comparison, undefined> {
  const waiting = { a: new Waiting(), b: new Waiting() };
  let sameOrder = true;
  const totals: { a?: LayerTotals; b?: LayerTotals } = {};
  try {
    while (totals.a === undefined || totals.b === undefined) {
      // the one that is behind goes on
      const side = totals.b !== undefined || (totals.a === undefined && waiting.a.count <= waiting.b.count) ? 'a' : 'b';
      const other = side === 'a' ? 'b' : 'a';
      const next = await (side === 'a' ? a : b).next();
      if (next.done) {
        totals[side] = next.value;
        continue;
      }
      for (const read of next.value) {
        const counterpart = waiting[other].take(read.entry.name);
        if (counterpart === undefined) {
          waiting[side].add(read);
          continue;
        }
        if (!counterpart.wasFirst || waiting[side].count > 0) sameOrder = false;
        yield side === 'a'
          ? { kind: 'both', a: read, b: counterpart.read }
          : { kind: 'both', a: counterpart.read, b: read };
      }
    }
    for (const side of ['a', 'b'] as const) {
      for (const entry of waiting[side].rest()) yield { kind: 'only', side, entry };
    }
    return { a: totals.a, b: totals.b, sameOrder };
  } finally {
    // whichever still has its file open
    await Promise.all([a, b].map((layer) => layer.return(undefined as never).catch(() => {})));
  }
}

/** Entries of one layer whose counterparts have not come yet. */
class Waiting {
  count = 0;
  private readonly byName = new Map<string, ReadEntry[]>();

  add(read: ReadEntry): void {
    const key = read.entry.name.toString('latin1');
    const alike = this.byName.get(key);
    if (alike === undefined) this.byName.set(key, [read]);
    else alike.push(read);
    this.count++;
  }

  /** The first of that name, and whether none has waited longer. */
  take(name: Buffer): { readonly read: ReadEntry; readonly wasFirst: boolean } | undefined {
    const key = name.toString('latin1');
    const alike = this.byName.get(key);
    const read = alike?.shift();
    if (alike === undefined || read === undefined) return undefined;
    const [oldest] = this.byName.keys();
    if (alike.length === 0) this.byName.delete(key);
    this.count--;
    return { read, wasFirst: oldest === key };
  }

  *rest(): Generator<ReadEntry> {
    for (const alike of this.byName.values()) yield* alike;
  }
}
