import { type LayerLimits, TarReader } from '../archive/tar-reader.ts';
import type { Checkpoint } from '../diff/layer-budget.ts';
import { LayerWriter, type WrittenLayer } from '../diff/layer-writer.ts';
import type { PassFindings } from '../diff/second-pass.ts';
import type { DiffTarget } from '../diff/target.ts';
import { ImageTree } from './image-tree.ts';
import { MemoryTree } from './memory-tree.ts';
import type { TreeContents } from './tree-contents.ts';

/**
 * How the tree of a layer file is made: as for a layer whose parent is not known yet, so that it depends on the layer alone.
 * Whiteouts are kept, and directories that no entry names keep their first attributes.
 */
const ALONE: DiffTarget = {
  root: '',
  below: 'later',
  lowers: [],
  opaqueXattr: 'trusted.overlay.opaque',
  ownership: 'keep',
  collectedBy: 'unpackd',
  copied: false,
};

/** What is below a layer whose parent is known: `nothing`, or images, nearest first (an index file where there is one). */
export type ImagesBelow = 'nothing' | readonly string[];

export interface IndexedTarOptions {
  readonly limits: LayerLimits;
  /** Called for each entry and each step of long work. It throws if the layer must be aborted. */
  readonly checkpoint: Checkpoint;
  /** Default: not known. Then the tree depends on the layer alone. */
  readonly below?: ImagesBelow | undefined;
  /** The findings of the previous pass over the layer. */
  readonly findings?: PassFindings | undefined;
}

/** What a tar becomes. */
export interface TarTree {
  readonly tree: TreeContents;
  readonly written: WrittenLayer;
  readonly entries: number;
  /** Size of the tar in bytes. */
  readonly bytes: number;
}

function targetOn(below: ImagesBelow | undefined): DiffTarget {
  if (below === undefined) return ALONE;
  return below === 'nothing' ? { ...ALONE, below } : { ...ALONE, below: 'parent', lowers: below };
}

/** Reads the tar of a layer into a tree in memory, by the rules of `src/diff`. */
export class IndexedTar implements Disposable {
  readonly #tree: MemoryTree;
  readonly #writer: LayerWriter;
  readonly #reader: TarReader;

  constructor({ limits, checkpoint, below, findings }: IndexedTarOptions) {
    const { memoryBytes } = limits;
    this.#tree = new MemoryTree(memoryBytes);
    const openLower = (path: string) => new ImageTree(path);
    const options = { tree: this.#tree, memoryBytes, checkpoint, findings, openLower };
    this.#writer = new LayerWriter(targetOn(below), options);
    this.#reader = new TarReader(this.#writer, limits);
  }

  /** Takes the next bytes of the tar. @throws UnpackError */
  write(bytes: Buffer): void {
    this.#reader.write(bytes);
  }

  /** Call it after the last byte. @throws UnpackError */
  finish(): TarTree {
    this.#reader.finish();
    this.#writer.finish();
    const written = this.#writer.copyParentAttributes();
    return { tree: this.#tree.contents(), written, entries: this.#reader.entries, bytes: this.#reader.bytes };
  }

  [Symbol.dispose](): void {
    this.#writer[Symbol.dispose]();
  }
}
