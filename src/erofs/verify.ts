import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { toUnpackError, type UnpackError } from '../errors.ts';
import { algorithmOf, type DiffId } from '../oci/digest.ts';
import { streamHash } from '../system/stream-hash.ts';
import { DATA_START, readSuperblock, superblockPage } from './format.ts';
import { readUpTo } from './image-file.ts';
import { writeIndex } from './index-writer.ts';
import { IndexedTar, type IndexedTarOptions, type TarTree } from './indexed-tar.ts';
import { uuidOf } from './layer-file.ts';

/** Size of the pieces in which the tar is read, in bytes. */
const PIECE = 512 * 1024;

/** What is wrong with a layer file. */
export interface LayerDamage {
  readonly part: 'superblock' | 'tar' | 'index' | 'length';
  /** A clause: what differs, and where. */
  readonly what: string;
}

export interface VerifyOptions extends Pick<IndexedTarOptions, 'limits' | 'checkpoint'> {
  readonly diffId: DiffId;
  /** Called with the number of bytes of the tar that were read so far. */
  readonly onProgress?: (bytes: number) => void;
}

/**
 * Checks a layer file: the tar in it has the DiffID, and the rest of the file is, byte for byte, what that tar gives.
 * @returns the first thing that is wrong; `undefined` if the file is whole
 * @throws UnpackError LIMIT_EXCEEDED if the tar is above a limit; system errors; the errors of the checkpoint
 */
export async function verifyLayerFile(path: string, options: VerifyOptions): Promise<LayerDamage | undefined> {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    return await new Verification(fd, options).run();
  } finally {
    closeSync(fd);
  }
}

class Verification {
  readonly #fd: number;
  readonly #options: VerifyOptions;
  readonly #size: number;

  constructor(fd: number, options: VerifyOptions) {
    this.#fd = fd;
    this.#options = options;
    this.#size = fstatSync(fd).size;
  }

  async run(): Promise<LayerDamage | undefined> {
    const page = readUpTo(this.#fd, 0, Buffer.alloc(DATA_START));
    if (page.length < DATA_START) return { part: 'length', what: `it has only ${this.#size} bytes` };
    const superblock = readSuperblock(page);
    if (superblock === undefined) return { part: 'superblock', what: 'its superblock is damaged, or not of unpackd' };
    const { tarBytes } = superblock;
    if (DATA_START + tarBytes > this.#size) {
      return { part: 'length', what: `it has ${this.#size} bytes, and its tar alone needs ${DATA_START + tarBytes}` };
    }
    const indexed = await this.#readTar(tarBytes);
    return 'part' in indexed ? indexed : this.#compareRest(page, indexed);
  }

  /** Digests the tar and reads it into a tree, at the same time. */
  async #readTar(tarBytes: number): Promise<TarTree | LayerDamage> {
    const { diffId, checkpoint, onProgress } = this.#options;
    const algorithm = algorithmOf(diffId);
    using digest = streamHash(algorithm, 'beside');
    let aborted: { readonly error: unknown } | undefined;
    const abortable = (): void => {
      try {
        checkpoint();
      } catch (error) {
        aborted = { error };
        throw error;
      }
    };
    using tar = new IndexedTar({ limits: this.#options.limits, checkpoint: abortable });
    let refusal: UnpackError | undefined;
    // the next piece is read while the other thread digests
    const pieces = [Buffer.allocUnsafeSlow(PIECE), Buffer.allocUnsafeSlow(PIECE)];
    for (let [at, turn] = [0, 0]; at < tarBytes; turn = 1 - turn) {
      checkpoint();
      const piece = pieces[turn]?.subarray(0, Math.min(PIECE, tarBytes - at)) ?? Buffer.alloc(0);
      if (readUpTo(this.#fd, DATA_START + at, piece).length < piece.length) {
        return { part: 'length', what: `it ends inside its tar of ${tarBytes} bytes` };
      }
      const digesting = digest.updateBeside(piece);
      try {
        if (refusal === undefined) tar.write(piece);
      } catch (error) {
        if (aborted !== undefined) throw aborted.error;
        // a damaged tar is reported by its digest, not by the entry that could not be read
        refusal = toUnpackError(error);
      } finally {
        await digesting;
      }
      at += piece.length;
      onProgress?.(at);
    }
    const actual = `${algorithm}:${digest.hex()}`;
    if (actual !== diffId) return { part: 'tar', what: `its tar has the digest ${actual}` };
    if (refusal !== undefined) throw refusal;
    return tar.finish();
  }

  /** Makes the rest of the file again, and compares. */
  #compareRest(page: Buffer, { tree, bytes: tarBytes }: TarTree): LayerDamage | undefined {
    const { diffId, checkpoint } = this.#options;
    let damage: LayerDamage | undefined;
    let at = DATA_START + tarBytes;
    const superblock = writeIndex(tree, {
      tarBytes,
      checkpoint,
      read: (offset, into) => {
        readUpTo(this.#fd, DATA_START + offset, into);
      },
      write: (expected) => {
        damage ??= this.#differs(at, expected);
        at += expected.length;
      },
    });
    if (damage !== undefined) return damage;
    if (at !== this.#size) return { part: 'length', what: `it has ${this.#size} bytes, and its tar gives ${at}` };
    const expected = superblockPage({ ...superblock, uuid: uuidOf(diffId) });
    if (page.equals(expected)) return undefined;
    return { part: 'superblock', what: `its first page differs at byte ${firstDifference(page, expected)}` };
  }

  #differs(at: number, expected: Buffer): LayerDamage | undefined {
    const actual = readUpTo(this.#fd, at, Buffer.allocUnsafe(expected.length));
    if (actual.equals(expected)) return undefined;
    if (actual.length < expected.length) return { part: 'length', what: `it ends at byte ${this.#size}, in its index` };
    return { part: 'index', what: `its index differs at byte ${at + firstDifference(actual, expected)}` };
  }
}

function firstDifference(one: Buffer, other: Buffer): number {
  let at = 0;
  while (at < one.length && one[at] === other[at]) at++;
  return at;
}
