import { join } from 'node:path';
import type { Client } from '../../src/grpc/client.ts';
import { loadService } from '../../src/grpc/definitions.ts';
import { GrpcError } from '../../src/grpc/errors.ts';
import type { ContentWrite, Empty, WireDescriptor, WireMount } from '../../src/grpc/services.ts';
import type { Layer } from '../../src/oci/descriptor.ts';
import { Daemon, NO_CRI, PROGRAMS, skipWithoutContainerd } from '../containerd/daemon.ts';

export type SnapshotterName = 'overlayfs' | 'native';

/** A layer with its blob's bytes. */
export interface StoredLayer extends Layer {
  readonly bytes: Buffer | (() => Promise<Buffer>);
}

/** The result of an image: the directory of each layer, bottom-most first, or the layer that was refused and why. */
export type Outcome =
  | { readonly kind: 'applied'; readonly directories: readonly string[] }
  | { readonly kind: 'refused'; readonly layer: number; readonly reason: string };

/** containerd's own way to apply layers. containerd ends with the process. */
export interface Containerd {
  /** Such as `1.6.20` or `2.3.4`, with the suffix of a distribution or a pre-release. */
  readonly version: string;
  readonly socket: string;
  /** Applies the layers in order, as containerd's client does when it unpacks an image. */
  apply(layers: readonly StoredLayer[], snapshotter: SnapshotterName): Promise<Outcome>;
  stop(): Promise<void>;
}

/** Plugins that are not needed to apply layers. */
const DISABLED = [...NO_CRI, 'io.containerd.internal.v1.restart'];
/** Bytes of a blob per message; containerd accepts at most 16 MiB. */
const PIECE = 1 << 20;
const NAMESPACE = 'conformance';
/** Keeps snapshots and blobs from containerd's collector. */
const KEPT = { 'containerd.io/gc.root': NAMESPACE };

/** Starts the newer one of the machine's containerds. @returns the reason if there is none @throws Error with `CI=true` if there is none */
export async function startContainerd(): Promise<Containerd | { readonly missing: string }> {
  const missing = skipWithoutContainerd();
  const program = PROGRAMS.at(-1);
  if (missing !== false || program === undefined) return { missing: missing || 'containerd is not installed' };
  return new Applier(await Daemon.start(program, { disabled: DISABLED }));
}

/** containerd.services.diff.v1.Diff */
interface Diff {
  Apply(request: { readonly diff: WireDescriptor; readonly mounts: readonly WireMount[] }): Empty;
}

const DIFF = join(import.meta.dirname, '../containerd/protos/diff.proto');

class Applier implements Containerd {
  readonly #daemon: Daemon;
  readonly #diff: Client<Diff>;
  readonly #stored = new Set<string>();
  #keys = 0;

  constructor(daemon: Daemon) {
    this.#daemon = daemon;
    this.#diff = daemon.client(NAMESPACE).service<Diff>(loadService(DIFF, 'containerd.services.diff.v1.Diff'));
  }

  get version(): string {
    return this.#daemon.version;
  }

  get socket(): string {
    return this.#daemon.socket;
  }

  async apply(layers: readonly StoredLayer[], snapshotter: SnapshotterName): Promise<Outcome> {
    const { snapshots } = this.#daemon.client(NAMESPACE);
    const directories: string[] = [];
    let parent = '';
    for (const [layer, each] of layers.entries()) {
      await this.#store(each);
      const key = `layer-${this.#keys++}`;
      const { mounts } = await snapshots.Prepare({ snapshotter, key, parent, labels: KEPT });
      const { digest, mediaType, size } = each.blob;
      try {
        await this.#diff.Apply({ diff: { mediaType, digest, size }, mounts });
      } catch (error) {
        if (!(error instanceof GrpcError)) throw error;
        await snapshots.Remove({ snapshotter, key });
        return { kind: 'refused', layer, reason: error.message };
      }
      parent = `committed-${key}`;
      await snapshots.Commit({ snapshotter, name: parent, key, labels: KEPT });
      directories.push(directoryOf(mounts));
    }
    return { kind: 'applied', directories };
  }

  stop(): Promise<void> {
    return this.#daemon[Symbol.asyncDispose]();
  }

  async #store({ blob, bytes }: StoredLayer): Promise<void> {
    if (this.#stored.has(blob.digest)) return;
    const content = Buffer.isBuffer(bytes) ? bytes : await bytes();
    const total = content.length;
    const same = { ref: `blob-${this.#keys++}`, total, expected: blob.digest };
    const requests: ContentWrite[] = [{ action: 'STAT', ...same }];
    for (let at = 0; at < total; at += PIECE) {
      requests.push({ action: 'WRITE', ...same, offset: at, data: content.subarray(at, at + PIECE) });
    }
    requests.push({ action: 'COMMIT', ...same, offset: total, labels: KEPT });
    for await (const _ of this.#daemon.client(NAMESPACE).content.Write(requests));
    this.#stored.add(blob.digest);
  }
}

/** The directory of an active snapshot's files: the upper directory of an overlay, or the source of a bind mount. */
export function directoryOf(mounts: readonly Pick<WireMount, 'source' | 'options'>[]): string {
  const [mount] = mounts;
  if (mount === undefined || mounts.length !== 1) throw new Error(`a snapshot of ${mounts.length} mounts`);
  const upper = mount.options.find((option) => option.startsWith('upperdir='))?.slice('upperdir='.length);
  return upper ?? mount.source;
}
