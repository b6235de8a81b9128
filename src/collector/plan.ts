import type { ImageRecord } from '../snapshots/images.ts';
import { type Amount, NOTHING, sum } from './free-space.ts';

/**
 * What a collection removes, in which order, and why the rest stays. It is computed from the contents of a store alone,
 * and changes nothing. `collector.ts` executes the plan; `unpackd gc --dry-run` shows it.
 */

/** A committed snapshot. */
export interface StoredLayer {
  readonly name: string;
  /** `""` for none. */
  readonly parent: string;
  /** What it takes on disk, without its parents. */
  readonly size: Amount;
  readonly committed: Date;
  /** Who uses it now, each as a phrase: `mounted at /mnt by process 12`. Such a layer and all below it stay. */
  readonly uses: readonly string[];
}

/** An image that has layers. `chainId` is the name of its top layer. */
export type StoredImage = ImageRecord & { readonly chainId: string };

export interface Contents {
  readonly layers: readonly StoredLayer[];
  readonly images: readonly StoredImage[];
  /** Why layers may be in use although `uses` does not tell it. Then everything stays. */
  readonly unseen: string | undefined;
}

/**
 * What is removed together: a top layer, the images that end with it, and the layers below that nothing else needs. A layer
 * that belongs to no image is such a unit too.
 */
export interface Unit {
  /** The name of its top layer. */
  readonly top: string;
  /** Empty for a layer that belongs to no image. */
  readonly images: readonly StoredImage[];
  /** The last use of its images; for a layer without an image the time of its commit. */
  readonly used: Date;
}

export interface Removal extends Unit {
  /** The layers that go, the top one first. */
  readonly layers: readonly string[];
  readonly frees: Amount;
}

export interface Kept extends Unit {
  /** `spare`: it could go, but enough is free without it. */
  readonly reason: 'pinned' | 'used' | 'below' | 'unseen' | 'spare';
  /** A phrase about the reason. */
  readonly why: string;
}

export interface CollectionPlan {
  readonly removals: readonly Removal[];
  readonly kept: readonly Kept[];
  /** What the removals free. */
  readonly frees: Amount;
  /** What the removals and everything `spare` free. */
  readonly couldFree: Amount;
}

/**
 * Plans the removal of whole images until `want` is freed, the least recently used ones first. An image counts as used
 * when anything that stands on it was used, because it can only go after that. Pinned images, layers in use and everything
 * below them stay.
 */
export function planCollection(contents: Contents, want: Amount): CollectionPlan {
  const forest = new Forest(contents);
  const removals: Removal[] = [];
  const kept: Kept[] = [];
  let frees = NOTHING;
  let couldFree = NOTHING;
  for (const unit of forest.inOrder()) {
    const reason =
      forest.whyItStays(unit) ??
      (contents.unseen === undefined ? undefined : ({ reason: 'unseen', why: contents.unseen } as const));
    if (reason !== undefined) {
      kept.push({ ...unit, ...reason });
      continue;
    }
    const enough = frees.bytes >= want.bytes && frees.inodes >= want.inodes;
    const removal = { ...unit, ...forest.take(unit) };
    couldFree = sum(couldFree, removal.frees);
    if (enough) {
      kept.push({ ...unit, reason: 'spare', why: 'enough is free without it' });
      continue;
    }
    frees = sum(frees, removal.frees);
    removals.push(removal);
  }
  return { removals, kept, frees, couldFree };
}

/** The layers of a store, each on its parent, and the units that they make. */
class Forest {
  readonly #layers = new Map<string, StoredLayer>();
  readonly #units = new Map<string, Unit>();
  /** How many layers that are not taken stand on a layer. */
  readonly #children = new Map<string, number>();
  /** Why a layer stays. */
  readonly #stays = new Map<string, Pick<Kept, 'reason' | 'why'>>();

  constructor({ layers, images }: Contents) {
    for (const layer of layers) this.#layers.set(layer.name, layer);
    for (const { parent } of layers) if (parent !== '') this.#count(parent, 1);
    this.#makeUnits(images);
    this.#findUses();
  }

  /** All units, in the order of removal: by the last use of the unit and of all that stand on it, from the top down. */
  inOrder(): Unit[] {
    const used = new Map<string, number>();
    for (const unit of this.#units.values()) {
      for (const { name } of this.#down(unit.top)) {
        const known = used.get(name);
        const time = unit.used.getTime();
        if (known === undefined || known < time) used.set(name, time);
      }
    }
    const depths = new Map([...this.#units.keys()].map((top) => [top, [...this.#down(top)].length]));
    const by = (of: ReadonlyMap<string, number>, { top }: Unit): number => of.get(top) ?? 0;
    return [...this.#units.values()].sort(
      (one, other) =>
        by(used, one) - by(used, other) || by(depths, other) - by(depths, one) || (one.top < other.top ? -1 : 1),
    );
  }

  whyItStays({ top }: Unit): Pick<Kept, 'reason' | 'why'> | undefined {
    return this.#stays.get(top);
  }

  /** Takes the layers of a unit out that nothing else needs, from the top down. Everything on the unit was taken before. */
  take({ top }: Unit): Pick<Removal, 'layers' | 'frees'> {
    const layers: string[] = [];
    let frees = NOTHING;
    for (const { name, parent, size } of this.#down(top)) {
      const isNeeded = (this.#children.get(name) ?? 0) > 0 || this.#stays.has(name);
      if (isNeeded || (name !== top && this.#units.has(name))) break;
      if (parent !== '') this.#count(parent, -1);
      layers.push(name);
      frees = sum(frees, size);
    }
    return { layers, frees };
  }

  #makeUnits(images: readonly StoredImage[]): void {
    const ofImages = new Set<string>();
    for (const image of images) {
      const top = image.chainId;
      if (!this.#layers.has(top)) continue; // its layers were removed one by one
      for (const { name } of this.#down(top)) ofImages.add(name);
      const known = this.#units.get(top);
      const used = known === undefined || known.used < image.used ? image.used : known.used;
      this.#units.set(top, { top, used, images: [...(known?.images ?? []), image] });
    }
    for (const { name, committed } of this.#layers.values()) {
      if (!ofImages.has(name)) this.#units.set(name, { top: name, images: [], used: committed });
    }
  }

  #findUses(): void {
    for (const { top, images } of this.#units.values()) {
      const pinned = images.filter((image) => image.pinned).map(({ reference }) => reference);
      if (pinned.length > 0)
        this.#keep(top, 'pinned', images.length === 1 ? 'pinned' : `pinned as ${pinned.join(', ')}`);
    }
    for (const { name, uses } of this.#layers.values()) if (uses.length > 0) this.#keep(name, 'used', uses.join('; '));
  }

  #keep(top: string, reason: Kept['reason'], why: string): void {
    const name = this.#units.get(top)?.images[0]?.reference ?? top;
    for (const layer of this.#down(top)) {
      if (layer.name === top) {
        if (this.#stays.get(top)?.reason !== 'pinned') this.#stays.set(top, { reason, why });
      } else if (!this.#stays.has(layer.name)) {
        this.#stays.set(layer.name, { reason: 'below', why: `below ${name}, which is ${why}` });
      }
    }
  }

  /** A layer and all below it, from the top down. */
  *#down(top: string): Generator<StoredLayer> {
    for (let layer = this.#layers.get(top); layer !== undefined; layer = this.#layers.get(layer.parent)) yield layer;
  }

  #count(name: string, by: number): void {
    this.#children.set(name, (this.#children.get(name) ?? 0) + by);
  }
}
