import { cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { LayerCompression } from '../../dev/layout-writer.ts';
import { type BenchImage, type Contents, readImage, writeImage } from './bench-image.ts';
import type { GeneratedLayer } from './generated-layers.ts';
import { imageOfThisMachine } from './machine-image.ts';

export interface ImageCacheOptions {
  /** A folder with the layouts `gzip` and `zstd`. `undefined`: an image is made from files of this machine. */
  readonly real: string | undefined;
  /** Keeps the images that were made, for the next run of the benchmark. */
  readonly cache: string;
  /** The images are copied here, so that every program reads them from memory. */
  readonly work: string;
  readonly packageRoot: string;
  readonly quick: boolean;
  /** Prints a line for the user. */
  readonly note: (sentence: string) => void;
  /** Finds bytes and entries of a given image by unpacking it once. */
  readonly look: (image: BenchImage) => Promise<Contents>;
}

const CONTENTS = 'contents.json';
/** Bytes of files in each layer of an image from this machine. */
const FULL_LAYER = 400 << 20;
const QUICK_LAYER = 80 << 20;

/** The images of a run. Each is made or copied when a scenario first needs it. */
export class ImageCache {
  readonly #options: ImageCacheOptions;
  readonly #ready = new Map<string, Promise<BenchImage>>();

  constructor(options: ImageCacheOptions) {
    this.#options = options;
  }

  /** The real image: that of `--image`, or one from files of this machine. */
  real(compression: LayerCompression): Promise<BenchImage> {
    return this.#once(`real-${compression}`, async () => {
      const { real, work, packageRoot, quick, note, look } = this.#options;
      const name = `real-${compression}`;
      if (real === undefined) {
        const kind = `machine-${compression}-${quick ? 'quick' : 'full'}`;
        const limit = quick ? QUICK_LAYER : FULL_LAYER;
        return this.#cached(name, kind, (folder) => imageOfThisMachine(folder, packageRoot, compression, limit));
      }
      note(`copying ${join(real, compression)}`);
      const folder = join(work, 'images', name);
      await cp(join(real, compression), folder, { recursive: true });
      const unknown = readImage(name, folder, { tarBytes: 0, entries: 0 });
      return { ...unknown, ...(await look(unknown)) };
    });
  }

  /** An image of generated layers. Images with the same name must have the same layers. */
  generated(name: string, compression: LayerCompression, layers: () => Iterable<GeneratedLayer>): Promise<BenchImage> {
    const kind = `${name}-${compression}`;
    return this.#once(kind, () =>
      this.#cached(name, kind, (folder) => writeImage(name, folder, layers(), compression)),
    );
  }

  #once(key: string, make: () => Promise<BenchImage>): Promise<BenchImage> {
    const ready = this.#ready.get(key) ?? make();
    this.#ready.set(key, ready);
    return ready;
  }

  async #cached(name: string, kind: string, make: (folder: string) => Promise<BenchImage>): Promise<BenchImage> {
    const { cache, work, note } = this.#options;
    const kept = join(cache, kind);
    const contents = await readFile(join(kept, CONTENTS), 'utf8').catch(() => undefined);
    if (contents === undefined) {
      note(`making the image ${kind}; it is kept for the next run`);
      const unfinished = `${kept}.unfinished`;
      await rm(unfinished, { recursive: true, force: true });
      await mkdir(unfinished, { recursive: true });
      const { tarBytes, entries } = await make(unfinished);
      await writeFile(join(unfinished, CONTENTS), JSON.stringify({ tarBytes, entries }));
      await rm(kept, { recursive: true, force: true });
      await rename(unfinished, kept);
      return this.#cached(name, kind, make);
    }
    const folder = join(work, 'images', kind);
    await cp(kept, folder, { recursive: true });
    return readImage(name, folder, JSON.parse(contents) as Contents); // written above
  }
}
