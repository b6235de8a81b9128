import { removeTree } from '../system/remove-tree.ts';
import { isUnfinished } from './admission.ts';
import { Calls } from './calls.ts';
import { Claims } from './claims.ts';
import { CommitRecords } from './commit-records.ts';
import type { Deletions } from './deletions.ts';
import type { SnapshotDirectories } from './directories.ts';
import type { Owner } from './holder.ts';
import {
  type ImageKey,
  type ImageListing,
  type ImageRecord,
  ImageTable,
  type KnownImage,
  type NewImage,
} from './images.ts';
import { LaterSync } from './later-sync.ts';
import { type Layout, NOTHING_TO_MOUNT, viewMounts } from './layout.ts';
import { Leases } from './leases.ts';
import type { Metadata } from './metadata.ts';
import { canBeMountedUnseen, storeMounts } from './mounted.ts';
import { Parents, parentGone } from './parents.ts';
import { lostSnapshots } from './read-only.ts';
import { markNew, readRecord, recordOf, removeRecord, writeRecord } from './records.ts';
import { Removal } from './removal.ts';
import { keepReserve, withReserve } from './reserve.ts';
import {
  type BrokenReason,
  type CommitOptions,
  EXTRACTION,
  type Lease,
  type Mount,
  type MountedSnapshots,
  type MountPlace,
  type OverlayXattrs,
  type Ownership,
  SnapshotError,
  type SnapshotFilter,
  type SnapshotInfo,
  type SnapshotOptions,
  type Snapshotter,
  type Unsynced,
  type Usage,
} from './snapshotter.ts';
import { CLOSE_LIMIT, type OwnStore } from './store.ts';
import type { Transactions } from './transactions.ts';
import { measureTree, syncDirectory } from './tree.ts';

/** How often a process that keeps the store open looks for deletions to continue, in milliseconds. */
export const SWEEP = 60_000;

/**
 * The Store of both types. It changes the metadata and the directories in this order, so that a crash
 * between two steps leaves at most a directory without a row:
 *
 *     new snapshot   fill new-…, flush its names → [ insert the row, rename to ID ]
 *     commit         write committed.json, flush it and the names of ROOT/snapshots → [ update the row ] → delete ID/work
 *     later sync     sync the file system → [ update the rows ] → write committed.json again
 *     remove         [ no child, claim, lease or mount: delete the row ] → rename to rm-… → delete it in the background,
 *                    unless it was mounted meanwhile
 *
 * `[ ]` is one transaction.
 */
export class SnapshotStore implements OwnStore {
  readonly root: string;
  readonly state: string;
  readonly type: Snapshotter['type'];
  readonly rebase: boolean;
  readonly durable: boolean;
  readonly ownership: Ownership;
  readonly overlayXattrs: OverlayXattrs;
  readonly extraction = EXTRACTION;
  readonly marked = true;
  readonly collectedBy = 'unpackd';
  readonly #mayUseReserve: boolean;
  readonly #layout: Layout;
  readonly #metadata: Metadata;
  readonly #images: ImageTable;
  readonly #directories: SnapshotDirectories;
  readonly #deletions: Deletions;
  readonly #parents: Parents;
  readonly #records: CommitRecords;
  readonly #leases: Leases;
  readonly #removal: Removal;
  readonly #claims: Claims;
  readonly #later: LaterSync;
  readonly #calls: Calls;
  #sweep: NodeJS.Timeout | undefined;
  #closed: Promise<void> | undefined;

  /** @param mayUseReserve whether removals may delete the reserve if the disk is full */
  constructor(
    root: string,
    layout: Layout,
    metadata: Metadata,
    transactions: Transactions,
    directories: SnapshotDirectories,
    deletions: Deletions,
    mayUseReserve = false,
  ) {
    this.#mayUseReserve = mayUseReserve;
    this.root = root;
    this.state = root;
    this.type = layout.type;
    this.rebase = layout.rebase;
    this.durable = metadata.durable;
    this.ownership = metadata.made.ownership;
    this.overlayXattrs = layout.overlayXattrs;
    this.#layout = layout;
    this.#metadata = metadata;
    this.#images = new ImageTable(transactions);
    this.#directories = directories;
    this.#deletions = deletions;
    this.#calls = new Calls(root, 'unpackd');
    this.#parents = new Parents(layout, metadata, directories);
    this.#records = new CommitRecords(metadata, directories);
    this.#leases = new Leases(root);
    this.#removal = new Removal(root, metadata, directories, this.#leases, mayUseReserve);
    this.#claims = new Claims(transactions, metadata, directories, this.#parents);
    this.#later = new LaterSync(metadata.descriptor, metadata.last, {
      synced: async (ids) => {
        await metadata.markSynced(ids);
        await this.#records.markSynced(ids);
      },
      lost: () => metadata.suspectAll(),
    });
    if (metadata.readOnly) return;
    this.#sweep = setInterval(() => this.#deleteGone(), SWEEP);
    this.#sweep.unref();
  }

  under(): OwnStore {
    return this;
  }

  stat(key: string): Promise<SnapshotInfo> {
    return this.#calls.run(async () => (await this.#metadata.stat(key)).info);
  }

  has(name: string): Promise<boolean> {
    return this.#calls.run(() => this.#metadata.has(name));
  }

  keys(prefix: string): Promise<string[]> {
    return this.#calls.run(() => this.#metadata.keys(prefix));
  }

  prepare(key: string, parent: string, options: SnapshotOptions = {}): Promise<Mount[]> {
    return this.#calls.run(() => this.#create('active', key, parent, options));
  }

  view(key: string, parent: string, options: SnapshotOptions = {}): Promise<Mount[]> {
    return this.#calls.run(() => this.#create('view', key, parent, options));
  }

  mounts(key: string): Promise<Mount[]> {
    return this.#calls.run(async () => {
      const chain = await this.#metadata.chain(key);
      if (chain.kind === 'committed') {
        throw new SnapshotError('NotFound', `snapshot ${key} is committed and has no mounts: ask for a view of it`);
      }
      return this.#layout.mounts(chain, this.#directories);
    });
  }

  viewMounts(name: string): Promise<readonly Mount[]> {
    return this.#calls.run(async () => {
      const mounts = await this.#viewMounts(name);
      if (mounts !== undefined) return mounts;
      throw new SnapshotError('NotFound', `there is no committed snapshot ${name} that can be used`);
    });
  }

  commit(name: string, key: string, options: CommitOptions = {}): Promise<void> {
    return this.#calls.run(async () => {
      const { id, info } = await this.#metadata.stat(key);
      const parent = options.parent ?? info.parent;
      const size = options.usage === undefined ? undefined : await this.#parents.sizeWith(parent, options.usage);
      if (info.kind === 'active') {
        const { labels = {}, synced = false } = options;
        const claim = info.claim ?? (await this.#metadata.claimOn(name));
        const record = { name, parent, labels, created: Date.now(), synced, claim };
        await this.#records.add(id, size === undefined ? record : { ...record, size });
      }
      try {
        const committing = {
          recorded: id,
          canProve: () => this.#later.canProve(id),
          rebase: (id: number, parentId: number) => this.#parents.rebase(key, id, parentId),
        };
        const replaced = await this.#metadata.commit(name, key, { ...options, size }, committing);
        if (options.synced !== true) this.#later.add(id);
        if (replaced !== undefined) await this.#directories.remove(replaced.id, this.#metadata.identity);
      } catch (error) {
        await this.#records.withdraw(id).catch(() => {});
        throw error;
      }
      // if this fails, the next cleanup tries again
      await removeTree(this.#directories.own(id, 'work')).catch(() => {});
      await removeRecord(this.#directories.own(id), 'active').catch(() => {});
    });
  }

  lease(names: readonly string[], owner: Owner, needs?: Usage): Promise<Lease> {
    return this.#calls.run(() => this.#leases.take(names, owner, needs));
  }

  remove(key: string): Promise<void> {
    return this.#calls.run(async () => this.#remove((await this.#metadata.stat(key)).info));
  }

  adopt(name: string, parent: string): Promise<boolean> {
    return this.#calls.run(() => this.#claims.adopt(name, parent));
  }

  release(key: string): Promise<void> {
    return this.#calls.run(async () => {
      const { info } = await this.#metadata.stat(key);
      if (info.claim === 'made') await this.#remove(info, true);
      else await withReserve(this.root, this.#mayUseReserve, () => this.#claims.release(key));
    });
  }

  update(info: Pick<SnapshotInfo, 'name' | 'labels'>, fields: readonly string[] = []): Promise<SnapshotInfo> {
    return this.#calls.run(async () => {
      const { id, info: updated } = await this.#metadata.update(info.name, info.labels, fields);
      const directory = this.#directories.own(id);
      const record = { ...readRecord(directory, updated.kind), ...recordOf(updated) };
      await writeRecord(directory, record, updated.kind === 'committed');
      return updated;
    });
  }

  usage(key: string): Promise<Usage> {
    return this.#calls.run(async () => {
      const { id, info } = await this.#metadata.stat(key);
      // a view has no files of its own
      if (info.kind === 'view') return { bytes: 0, inodes: 0 };
      const measured = await measureTree(this.#directories.own(id, 'fs'), this.#calls.signal);
      if ((await this.#metadata.stat(key)).id === id) return measured;
      throw new SnapshotError('NotFound', `snapshot ${key} was removed while its files were counted`);
    });
  }

  walk(filter: SnapshotFilter = {}): Promise<SnapshotInfo[]> {
    return this.#calls.run(async () => {
      const entries = await this.#metadata.walk(filter);
      const lost = this.#metadata.readOnly ? await this.#lost() : undefined;
      return entries.map(({ id, info }) => {
        const broken = info.broken ?? lost?.get(id);
        return broken === undefined ? info : { ...info, broken };
      });
    });
  }

  unsynced(name: string): Promise<Unsynced> {
    return this.#calls.run(async () => {
      const ids = await this.#metadata.unsynced(name);
      const own = ids.filter((id) => this.#later.has(id)).length;
      return { own, others: ids.length - own };
    });
  }

  sync(): Promise<void> {
    return this.#calls.run(() => this.#later.sync());
  }

  mounted(): Promise<MountedSnapshots> {
    return this.#calls.run(async () => {
      // the mounts first: a snapshot that is removed between the two has no row any more
      const { places, unseen } = await storeMounts(this.root);
      const named = new Map<string, MountPlace>();
      if (places.size > 0) {
        for (const { id, info } of await this.#metadata.walk({})) {
          const place = places.get(id);
          if (place !== undefined) named.set(info.name, place);
        }
      }
      return { places: named, unseen };
    });
  }

  cleanup(): Promise<number> {
    return this.#calls.run(async () => {
      await this.#deletions.settled();
      const mounts = await storeMounts(this.root);
      // A crash after the transaction of a removal or of a replacement leaves a committed directory without a row. Somebody
      // may have it mounted. If not all mounts can be seen, it stays until the machine has restarted.
      const canGo = (path: string) => isUnfinished(path, this.#metadata.identity) || !canBeMountedUnseen(path, mounts);
      const { strays, committed } = await this.#metadata.exclusively((kinds, isLeft) => ({
        strays: this.#directories.takeStrays((id, path) => isLeft(id, path) && canGo(path)),
        committed: [...kinds].filter(([, kind]) => kind === 'committed').map(([id]) => id),
      }));
      const failures: unknown[] = [];
      const free = await this.#deletions.unmounted(strays);
      for (const path of [...free, ...committed.map((id) => this.#directories.own(id, 'work'))]) {
        // one failure must not keep the other directories
        await this.#deletions.now(path, this.#calls.signal).catch((error: unknown) => failures.push(error));
        this.#calls.signal.throwIfAborted();
      }
      await keepReserve(this.root); // a removal on a full disk may have spent it
      if (failures.length > 0) throw failures[0];
      return free.length;
    });
  }

  recordImage(image: NewImage, documents: ReadonlyMap<string, Uint8Array>): Promise<void> {
    return this.#calls.run(() => this.#images.recordImage(image, documents));
  }

  /** Our own store records any reference. */
  checkReference(): void {}

  async keepDocuments(): Promise<void> {}

  namesOf(): readonly string[] {
    return [];
  }

  lookUpImage(image: ImageKey): Promise<KnownImage | undefined> {
    return this.#calls.run(async () => {
      const { chainId } = image;
      const mounts = chainId === undefined ? NOTHING_TO_MOUNT : await this.#viewMounts(chainId);
      return mounts && { mounts, used: await this.#images.used(image) };
    });
  }

  images(): Promise<ImageListing[]> {
    return this.#calls.run(() => this.#images.images());
  }

  document(digest: string): Promise<Uint8Array | undefined> {
    return this.#calls.run(() => this.#images.document(digest));
  }

  removeImage(reference: string, platform?: string): Promise<ImageRecord[]> {
    const remove = () => this.#images.removeImage(reference, platform);
    return this.#calls.run(() => withReserve(this.root, this.#mayUseReserve, remove));
  }

  pinImage(reference: string, platform: string | undefined, pinned: boolean): Promise<ImageRecord[]> {
    return this.#calls.run(() => this.#images.pinImage(reference, platform, pinned));
  }

  close(): Promise<void> {
    this.#closed ??= this.#end();
    return this.#closed;
  }

  /** Continues deletions that another process has started and not finished. */
  #deleteGone(): void {
    try {
      this.#directories.deleteGone();
    } catch {
      // the disk has failed, which the next call reports
    }
  }

  async #end(): Promise<void> {
    clearInterval(this.#sweep);
    await this.#calls.end();
    await this.#later.close();
    await this.#deletions.close(CLOSE_LIMIT);
    this.#metadata.close();
  }

  async #create(kind: 'active' | 'view', key: string, parent: string, options: SnapshotOptions): Promise<Mount[]> {
    const claim = options.claimed === true ? ('made' as const) : undefined;
    const snapshot = { key, kind, parent, labels: options.labels ?? {}, claim };
    // Checked twice: now, so that a call that must fail makes nothing, and again inside the transaction.
    const expected = await this.#metadata.check(snapshot);
    if (expected !== undefined) await this.#parents.requireWhole(expected);
    // what stands under a claimed snapshot is claimed
    if (expected !== undefined && claim !== undefined) await this.#claims.adopt(parent, expected.info.parent);
    const staged = await this.#directories.stage();
    try {
      await this.#parents.fill(staged, snapshot, expected?.id, this.#calls.signal);
      markNew(staged.path, this.#metadata.identity, {
        kind,
        name: key,
        parent,
        labels: snapshot.labels,
        created: Date.now(),
        claim,
      });
      await syncDirectory(staged.path);
      const chain = await this.#metadata.create(snapshot, (id, parentId, onRollback) => {
        if (parentId !== expected?.id) throw parentGone(parent);
        if (parentId !== undefined) this.#parents.giveOwner(parentId, `${staged.path}/fs`);
        this.#directories.place(staged, id, (path) => isUnfinished(path, this.#metadata.identity), onRollback);
      });
      return this.#layout.mounts(chain, this.#directories);
    } finally {
      await this.#directories.release(staged);
    }
  }

  async #remove(info: SnapshotInfo, forContainerd = false): Promise<void> {
    const id = await this.#removal.deleteRow(info, this.#calls.signal, forContainerd);
    await this.#directories.remove(id, this.#metadata.identity, info.kind === 'view');
  }

  /** Those that the database does not mark as broken, because it was opened only to be read. */
  async #lost(): Promise<ReadonlyMap<number, BrokenReason>> {
    // the directories first: what is removed between the two has no row any more
    const present = this.#directories.present();
    return lostSnapshots(await this.#metadata.walk({}), present);
  }

  async #viewMounts(name: string): Promise<readonly Mount[] | undefined> {
    const chain = await this.#metadata.usableChain(name);
    return chain && viewMounts(this.#layout, chain, this.#directories);
  }
}
