import type { Usage } from './snapshotter.ts';

/** What the snapshots of an image take on disk. */
export interface ImageUsage {
  /** What its snapshots take that no other image has. */
  readonly own: Usage;
  /** What its snapshots take that other images have too. */
  readonly shared: Usage;
  /** The number of its snapshots whose usage is not recorded yet. `own` and `shared` are without them. */
  readonly unmeasured: number;
}

/** A committed snapshot, and how many images have it. */
interface Part<Id> {
  readonly parent: Id | undefined;
  readonly usage: Usage | undefined;
  images: number;
}

/**
 * What the images of a store take on disk: what only one has, and what it shares with others. The listings of both kinds of
 * store use it: add all snapshots, count all images, then ask for each image.
 */
export class ImageSizes<Id> {
  readonly #parts = new Map<Id, Part<Id>>();

  /** @param usage without the parents; `undefined` if it is not known */
  add(id: Id, parent: Id | undefined, usage: Usage | undefined): void {
    this.#parts.set(id, { parent, usage, images: 0 });
  }

  /** Counts an image. @param top its top snapshot; `undefined` if it has none */
  count(top: Id | undefined): void {
    for (const part of this.#below(top)) part.images += 1;
  }

  /** The sizes of an image that was counted. */
  of(top: Id | undefined): ImageUsage {
    const own = { bytes: 0, inodes: 0 };
    const shared = { bytes: 0, inodes: 0 };
    let unmeasured = 0;
    for (const { usage, images } of this.#below(top)) {
      const sum = images > 1 ? shared : own;
      if (usage === undefined) unmeasured += 1;
      sum.bytes += usage?.bytes ?? 0;
      sum.inodes += usage?.inodes ?? 0;
    }
    return { own, shared, unmeasured };
  }

  /** A snapshot and all below it. */
  *#below(top: Id | undefined): Generator<Part<Id>> {
    for (let id = top; id !== undefined; ) {
      const part = this.#parts.get(id);
      if (part === undefined) return;
      yield part;
      id = part.parent;
    }
  }
}
