import { cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { LayerCompression } from '../../dev/layout-writer.ts';
import { type BenchImage, type Contents, readImage, writeImage } from './bench-image.ts';
import type { GeneratedLayer } from './generated-layers.ts';
import { imageOfThisMachine } from './machine-image.ts';

export interface ImageCacheOptions {
  /** A folder with the layouts `gzip` and `zstd`, or `undefined`: one of what is on this machine is made. */
  readonly real: string | undefined;
  /** Where made images are kept from run to run. */
  readonly cache: string;
  /** Where they are copied to, so that everybody reads them from memory. */
  readonly work: string;
  readonly packageRoot: string;
  readonly quick: boolean;
  /** Tells a person what takes so long. */
  readonly note: (sentence: string) => void;
  /** What a given image holds, found by unpacking it once. */
  readonly look: (image: BenchImage) => Promise<Contents>;
}

const CONTENTS = 'contents.json';
/** Bytes of files in each layer of an image of this machine. */
const FULL_LAYER = 400 << 20;
const QUICK_LAYER = 80 << 20;

/** The images of a run, each made or copied when it is first asked for. */
export class ImageCache {
  readonly #options: ImageCacheOptions;
  readonly #ready = new Map<string, Promise<BenchImage>>();

  constructor(options: ImageCacheOptions) {
    this.#options = options;
  }

  /** The image that stands for those of life. */
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

  /** An image of made-up layers. `name` says all that they depend on. */
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
