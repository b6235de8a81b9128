import type { LayerTotals, ReadEntry } from './read-layer.ts';

/** Entries of two layers with the same name, or an entry that only one of them has. */
export type EntryPair =
  | { readonly kind: 'only'; readonly side: 'a' | 'b'; readonly entry: ReadEntry }
  /** If a layer has several entries of one name, the first is paired with the first, and so on. */
  | { readonly kind: 'both'; readonly a: ReadEntry; readonly b: ReadEntry };

export interface Comparison {
  readonly a: LayerTotals;
  readonly b: LayerTotals;
  /** Both layers have the same names in the same order. */
  readonly sameOrder: boolean;
}

type Layer = AsyncGenerator<readonly ReadEntry[], LayerTotals, undefined>;

/**
 * Pairs the entries of two layers by name. Both layers are read at the same time, and a pair is yielded when it is complete,
 * so memory holds only entries whose counterparts are elsewhere in the other layer.
 * @returns totals, after both layers are read
 */
export async function* pairEntries(a: Layer, b: Layer): AsyncGenerator<EntryPair, Comparison, undefined> {
  const unpaired = { a: new Unpaired(), b: new Unpaired() };
  let sameOrder = true;
  const totals: { a?: LayerTotals; b?: LayerTotals } = {};
  try {
    while (totals.a === undefined || totals.b === undefined) {
      // read on in the layer with fewer unpaired entries
      const side =
        totals.b !== undefined || (totals.a === undefined && unpaired.a.count <= unpaired.b.count) ? 'a' : 'b';
      const other = side === 'a' ? 'b' : 'a';
      const next = await (side === 'a' ? a : b).next();
      if (next.done) {
        totals[side] = next.value;
        continue;
      }
      for (const read of next.value) {
        const counterpart = unpaired[other].take(read.entry.name);
        if (counterpart === undefined) {
          unpaired[side].add(read);
          continue;
        }
        if (!counterpart.wasFirst || unpaired[side].count > 0) sameOrder = false;
        yield side === 'a'
          ? { kind: 'both', a: read, b: counterpart.read }
          : { kind: 'both', a: counterpart.read, b: read };
      }
    }
    for (const side of ['a', 'b'] as const) {
      for (const entry of unpaired[side].rest()) yield { kind: 'only', side, entry };
    }
    return { a: totals.a, b: totals.b, sameOrder };
  } finally {
    // close the file of a layer that was read only in part
    await Promise.all([a, b].map((layer) => layer.return(undefined as never).catch(() => {})));
  }
}

/** Entries of one layer that have no counterpart so far. */
class Unpaired {
  count = 0;
  private readonly byName = new Map<string, ReadEntry[]>();

  add(read: ReadEntry): void {
    const key = read.entry.name.toString('latin1');
    const alike = this.byName.get(key);
    if (alike === undefined) this.byName.set(key, [read]);
    else alike.push(read);
    this.count++;
  }

  /** Removes the first entry of a name. `wasFirst`: it was also the first of all unpaired names. */
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
