import { holderName } from '../snapshots/holder.ts';
import { Leases } from '../snapshots/leases.ts';
import type { MountedSnapshots, SnapshotInfo } from '../snapshots/snapshotter.ts';
import type { StoreReader } from '../snapshots/store.ts';
import { type Amount, NOTHING } from './free-space.ts';
import type { Contents, StoredImage } from './plan.ts';

/** Reads what a plan is made from: the snapshots and images of a store, and who uses them now. */

export interface ReadOptions {
  /** Leaves out what running jobs use, to see what could go when they have ended. */
  readonly withoutLeases?: boolean;
}

/** @throws UnpackError STORE_FAILED; system errors */
export async function readContents(store: StoreReader, options: ReadOptions = {}): Promise<Contents> {
  const infos = await store.walk();
  const committed = infos.filter(({ kind }) => kind === 'committed');
  const uses = new Map<string, string[]>();
  const add = (name: string, phrase: string): void => {
    const known = uses.get(name);
    if (known === undefined) uses.set(name, [phrase]);
    else if (!known.includes(phrase)) known.push(phrase);
  };
  for (const { kind, name, parent } of infos) {
    if (kind !== 'committed' && parent !== '')
      add(parent, `used by ${kind === 'view' ? 'the view' : 'the active snapshot'} ${name}`);
  }
  for (const { name, claim } of committed) if (claim !== undefined) add(name, 'used by containerd');
  const mounted = await store.mounted();
  for (const [name, { point, process }] of mounted.places) add(name, `mounted at ${point} by process ${process}`);
  if (options.withoutLeases !== true) {
    for (const { names, holder } of new Leases(store.state).held()) {
      for (const name of names ?? committed.map(({ name }) => name)) add(name, `used by ${holderName(holder)}`);
    }
  }
  return {
    layers: await Promise.all(
      committed.map(async (info) => ({
        name: info.name,
        parent: info.parent,
        size: await sizeOf(store, info),
        committed: info.created,
        uses: uses.get(info.name) ?? [],
      })),
    ),
    unseen: unseenText(mounted),
    images: (await store.images()).filter((image): image is typeof image & StoredImage => image.chainId !== undefined),
  };
}

/** Why nothing may be removed; `undefined` if all mounts were seen. */
export function unseenText({ unseen }: MountedSnapshots): string | undefined {
  return unseen === undefined ? undefined : `the mounts of other processes cannot all be seen: ${unseen}`;
}

/** Its recorded size, which takes no time. It is measured for a snapshot of an earlier version. */
async function sizeOf(store: StoreReader, { name, size, broken }: SnapshotInfo): Promise<Amount> {
  if (broken === 'gone' || broken === 'foreign') return NOTHING;
  return size ?? (await store.usage(name).catch(() => NOTHING));
}
