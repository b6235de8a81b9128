import { loadConfig, unpackSettings } from '../../src/config.ts';
import type { StoreKeeper, UnpackedImage, Unpacker } from '../../src/image/unpack.ts';
import { createUnpacker } from '../../src/image/unpacker.ts';
import { type ContainerdOptions, openContainerdStore } from '../../src/snapshots/containerd/open.ts';
import type { Store } from '../../src/snapshots/store.ts';

/** Unpacks images from a layout into containerd and records them there, in this process, as a worker does. */
export class Adopter implements AsyncDisposable {
  readonly store: Store;
  readonly #unpacker: Unpacker & { readonly keeper: StoreKeeper };

  private constructor(store: Store) {
    this.store = store;
    this.#unpacker = createUnpacker(store, { ...unpackSettings(loadConfig({}, {})), threads: 2 });
  }

  static async open(options: ContainerdOptions): Promise<Adopter> {
    return new Adopter(await openContainerdStore(options));
  }

  /** @param name of the image in containerd */
  async adopt(layout: string, tag: string, name: string): Promise<readonly UnpackedImage[]> {
    const source = { kind: 'oci-layout', path: layout } as const;
    const found = await this.#unpacker.lookUp({ image: name, source, request: { target: { kind: 'tag', tag } } });
    return found.existing ?? this.#unpacker.unpack(found);
  }

  /** Removes what dead processes have left, as a worker does when it starts. */
  tidy(): Promise<void> {
    return this.#unpacker.keeper.tidy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#unpacker.close();
    await this.store.close();
  }
}
