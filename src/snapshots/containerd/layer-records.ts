import type { ContainerdClient } from '../../grpc/client.ts';
import type { Labels, WireSnapshot } from '../../grpc/services.ts';
import { parseImageName } from '../../oci/image-name.ts';
import type { NewImage } from '../images.ts';
import { type ImageLabel, labelText, newLabel, readLabels } from './image-labels.ts';
import { digestName } from './image-names.ts';
import { LABEL_IMAGE, LABEL_ROOT } from './wire.ts';

/**
 * The records of explicit layers. Such a job has no manifest, so containerd has no image of it: a label on the top snapshot keeps
 * the layers from containerd's collection, and one label for each reference is the record. `images.ts` is the only user.
 */

/** The value of LABEL_ROOT by which this program knows that it has set the label. */
const ROOT = 'unpackd.dev/image';

/** A record: the top snapshot of the layers, and what its label says. */
export interface LayerRecord {
  readonly snapshot: WireSnapshot;
  readonly label: ImageLabel;
}

export class LayerRecords {
  readonly #client: ContainerdClient;
  readonly #snapshotter: string;

  constructor(client: ContainerdClient, snapshotter: string) {
    this.#client = client;
    this.#snapshotter = snapshotter;
  }

  /** @param name the full name of the reference @param top its snapshot @throws GrpcError */
  async record(name: string, image: NewImage, top: WireSnapshot, times: { unpacked: Date; used: Date }): Promise<void> {
    const others = (await this.named(name)).filter(({ snapshot }) => snapshot.name !== top.name);
    const earlier = readLabels(top.labels).get(name);
    const pinned = earlier?.pinned === true || others.some(({ label }) => label.pinned === true);
    await this.#write(
      top.name,
      name,
      { ...newLabel(image, times, earlier), pinned },
      { [LABEL_ROOT]: top.labels[LABEL_ROOT] ?? ROOT },
    );
    for (const { snapshot, label } of others) {
      // as when a tag moves: the earlier layers keep a record with their digest
      const aside = digestName(parseImageName(name), snapshot.name);
      await this.#write(snapshot.name, aside, { ...label, pinned: false }, { [`${LABEL_IMAGE}${name}`]: '' });
    }
  }

  /** The records with this name. @throws GrpcError */
  async named(name: string): Promise<LayerRecord[]> {
    const found: LayerRecord[] = [];
    const filters = [`labels.${JSON.stringify(`${LABEL_IMAGE}${name}`)}`];
    for await (const { info } of this.#client.snapshots.List({ snapshotter: this.#snapshotter, filters })) {
      for (const snapshot of info) {
        const label = labelOf(snapshot, name);
        if (label !== undefined) found.push({ snapshot, label });
      }
    }
    return found;
  }

  /** @throws GrpcError */
  async pin(name: string, { snapshot, label }: LayerRecord, pinned: boolean): Promise<void> {
    await this.#write(snapshot.name, name, { ...label, pinned });
  }

  /** Removes a record. The last one of a snapshot lets containerd collect it. @throws GrpcError */
  async remove(name: string, { snapshot }: LayerRecord): Promise<void> {
    const key = `${LABEL_IMAGE}${name}`;
    const others = Object.keys(snapshot.labels).filter((other) => other.startsWith(LABEL_IMAGE) && other !== key);
    const isLast = others.length === 0 && snapshot.labels[LABEL_ROOT] === ROOT;
    await this.#update(snapshot.name, { [key]: '', ...(isLast ? { [LABEL_ROOT]: '' } : {}) });
  }

  async #write(snapshot: string, name: string, label: ImageLabel, others: Labels = {}): Promise<void> {
    const key = `${LABEL_IMAGE}${name}`;
    await this.#update(snapshot, { ...others, [key]: labelText(key, label) });
  }

  /** An empty value removes a label. */
  async #update(name: string, labels: Labels): Promise<void> {
    const paths = Object.keys(labels).map((key) => `labels.${key}`);
    await this.#client.snapshots.Update({
      snapshotter: this.#snapshotter,
      info: { name, labels },
      updateMask: { paths },
    });
  }
}

/** The record of a snapshot under this name, if it has one and containerd keeps it. */
export function labelOf({ kind, labels }: WireSnapshot, name: string): ImageLabel | undefined {
  return kind === 'COMMITTED' && labels[LABEL_ROOT] !== undefined ? readLabels(labels).get(name) : undefined;
}
