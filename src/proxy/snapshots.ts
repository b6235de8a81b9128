import type { Handlers } from '../grpc/server.ts';
import type { Labels, Snapshots, Timestamp, WireKind, WireMount, WireSnapshot } from '../grpc/services.ts';
import type { StoreSync } from '../rootfs/durability.ts';
import {
  LABEL_SNAPSHOT_REF,
  type Mount,
  SnapshotError,
  type SnapshotInfo,
  type SnapshotKind,
} from '../snapshots/snapshotter.ts';
import type { OwnStore } from '../snapshots/store.ts';
import { type FieldReader, parseFilters } from './filter.ts';

/** How many snapshots one message of a list has, as in containerd. */
const BATCH = 100;

/**
 * containerd's snapshots service over our own store. containerd calls it as a proxy snapshotter, with names of its own:
 * NAMESPACE/NUMBER/KEY. What it makes is claimed. Layers that were unpacked ahead have their chain ID as name:
 *
 * - `Prepare` with the label `containerd.io/snapshot.ref` adopts such a layer, if its parent is the one that containerd
 *   knows, and answers ALREADY_EXISTS. containerd then looks for it with `List`.
 * - `List` hides what is not claimed, because containerd's collector removes everything that it doesn't know.
 * - `Remove` only ends the claim of what was adopted.
 *
 * The capability `rebase` is never announced: files that a layer has deleted came back when containerd 2.4 used it.
 */
export class SnapshotsService implements Handlers<Snapshots> {
  readonly #store: OwnStore;
  readonly #sync: StoreSync;
  /** Of each active snapshot that was made here: waits until its files are on disk. */
  readonly #settled = new Map<string, () => Promise<void>>();

  /** @param sync of the store's file system */
  constructor(store: OwnStore, sync: StoreSync) {
    this.#store = store;
    this.#sync = sync;
    // a loss of writes is reported to descriptors that were open at that time
    this.#sync.watch();
  }

  Prepare: Handlers<Snapshots>['Prepare'] = async ({ key, parent, labels }) => {
    const target = labels[LABEL_SNAPSHOT_REF];
    if (target !== undefined && target !== '' && (await this.#isThere(target, parent))) {
      throw new SnapshotError('AlreadyExists', `the store has ${target} already`);
    }
    const settled = this.#sync.watch();
    const mounts = await this.#store.prepare(key, parent, { labels, claimed: true });
    this.#settled.set(key, settled);
    return { mounts: mounts.map(wireMount) };
  };

  View: Handlers<Snapshots>['View'] = async ({ key, parent, labels }) => {
    const mounts = await this.#store.view(key, parent, { labels, claimed: true });
    return { mounts: mounts.map(wireMount) };
  };

  Mounts: Handlers<Snapshots>['Mounts'] = async ({ key }) => {
    const { kind } = await this.#store.stat(key);
    if (kind === 'committed') throw refused(key, 'is committed and has no mounts');
    return { mounts: (await this.#store.mounts(key)).map(wireMount) };
  };

  Commit: Handlers<Snapshots>['Commit'] = async ({ name, key, parent, labels }) => {
    const { kind, parent: own } = await this.#store.stat(key);
    if (kind !== 'active') throw refused(key, 'is not active, and only an active one is committed');
    if (parent !== '' && parent !== own) {
      throw new SnapshotError('InvalidArgument', `snapshot ${key} can't get the parent ${parent} at its commit`);
    }
    const { durable, type } = this.#store;
    if (durable) await (this.#settled.get(key) ?? this.#sync.watch())();
    // in a native store, the tree has the files of the parent too, and `commit` would add their size again
    const usage = type === 'native' ? {} : { usage: await this.#store.usage(key) };
    await this.#store.commit(name, key, { labels, synced: durable, ...usage });
    this.#settled.delete(key);
    return {};
  };

  Remove: Handlers<Snapshots>['Remove'] = async ({ key }) => {
    await this.#store.release(key);
    this.#settled.delete(key);
    return {};
  };

  Stat: Handlers<Snapshots>['Stat'] = async ({ key }) => ({ info: wireSnapshot(await this.#store.stat(key)) });

  Update: Handlers<Snapshots>['Update'] = async ({ info, updateMask }) => {
    const { name = '', labels = {} } = info ?? {};
    return { info: wireSnapshot(await this.#store.update({ name, labels }, updateMask?.paths ?? [])) };
  };

  List: Handlers<Snapshots>['List'] = ({ filters }) => this.#list(filters);

  Usage: Handlers<Snapshots>['Usage'] = async ({ key }) => {
    // containerd asks for every snapshot when it starts, and counting files takes long
    const { size } = await this.#store.stat(key);
    const { bytes, inodes } = size ?? (await this.#store.usage(key));
    return { size: bytes, inodes };
  };

  Cleanup: Handlers<Snapshots>['Cleanup'] = async () => {
    await this.#store.cleanup();
    return {};
  };

  /** Whether the store has a layer that can be used: unpacked ahead, or for another namespace of containerd. */
  async #isThere(chainId: string, parent: string): Promise<boolean> {
    if (await this.#store.adopt(chainId, parent)) return true;
    const labels = { [LABEL_SNAPSHOT_REF]: chainId };
    for (const { name, claim } of await this.#store.walk({ kind: 'committed', parent, labels })) {
      if (claim === 'made' && (await this.#store.has(name))) return true;
    }
    return false;
  }

  async *#list(filters: readonly string[]) {
    const { matches, required } = parseFilters(filters);
    const [name, parent] = [required('name'), required('parent')];
    const all = await this.#store.walk({
      ...(name === undefined ? {} : { name }),
      ...(parent === undefined ? {} : { parent }),
    });
    const found = all.filter((info) => info.claim !== undefined && matches(fieldsOf(info)));
    for (let first = 0; first < found.length; first += BATCH) {
      yield { info: found.slice(first, first + BATCH).map(wireSnapshot) };
    }
  }
}

/** containerd's own snapshotters answer FAILED_PRECONDITION for a snapshot of the wrong kind. */
const refused = (key: string, why: string): SnapshotError =>
  new SnapshotError('FailedPrecondition', `snapshot ${key} ${why}`);

const KINDS: Readonly<Record<SnapshotKind, WireKind>> = { active: 'ACTIVE', view: 'VIEW', committed: 'COMMITTED' };

function wireSnapshot(info: SnapshotInfo): WireSnapshot {
  const { name, parent, kind, created, updated, nanoseconds } = info;
  return {
    name,
    parent,
    kind: KINDS[kind],
    createdAt: timestamp(created, nanoseconds?.created),
    updatedAt: timestamp(updated, nanoseconds?.updated),
    labels: labelsOf(info),
  };
}

/** The label by which containerd finds an adopted layer. A layer of an early version of unpackd may not have it. */
function labelsOf({ name, claim, labels }: SnapshotInfo): Labels {
  return claim === 'adopted' ? { [LABEL_SNAPSHOT_REF]: name, ...labels } : labels;
}

const wireMount = ({ type, source, options }: Mount): WireMount => ({ type, source, target: '', options });

function timestamp(time: Date, nanoseconds = 0): Timestamp {
  const milliseconds = time.getTime();
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, nanos: (milliseconds - seconds * 1000) * 1_000_000 + nanoseconds };
}

/** The fields that a filter can name, as in containerd's own snapshotters. */
function fieldsOf(info: SnapshotInfo): FieldReader {
  return ([field, ...rest]) => {
    if (field === 'kind' || field === 'name' || field === 'parent') return info[field];
    if (field !== 'labels') return undefined;
    const labels = labelsOf(info);
    const key = rest.join('.');
    return Object.hasOwn(labels, key) ? labels[key] : undefined;
  };
}
