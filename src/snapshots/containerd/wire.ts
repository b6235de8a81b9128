import { UnpackError } from '../../errors.ts';
import type { Labels, WireKind, WireMount, WireSnapshot } from '../../grpc/services.ts';
import type { Mount, SnapshotFilter, SnapshotInfo, SnapshotKind } from '../snapshotter.ts';

/**
 * What containerd's messages say about snapshots, as the types of this folder's users, and the labels that only this store
 * reads. The snapshotter and the image records use it.
 */

/** On a committed snapshot: this program has synced its files before the commit, or later. */
export const LABEL_SYNCED = 'unpackd.dev/synced';
/** On an active snapshot: the ID of the state directory whose processes made it. */
export const LABEL_STATE = 'unpackd.dev/state';
/** containerd's collection keeps what has it. On snapshots that were made outside of a lease. */
export const LABEL_ROOT = 'containerd.io/gc.root';

/** Before the platform in the key of a label on an image, and before the image's name in that of a label on a snapshot. */
export const LABEL_IMAGE = 'unpackd.dev/image/';

/** How the labels begin that containerd's collection reads: LABEL_ROOT, and references that keep other things. */
const COLLECTION = 'containerd.io/gc.';

const OWN: ReadonlySet<string> = new Set([LABEL_SYNCED, LABEL_STATE]);
const isOwn = (label: string) => OWN.has(label) || label.startsWith(COLLECTION) || label.startsWith(LABEL_IMAGE);

/** The labels that are for this store and for containerd's collection only. They stay when others are replaced. */
export function ownLabels(labels: Labels): Labels {
  return Object.fromEntries(Object.entries(labels).filter(([label]) => isOwn(label)));
}

/** The labels that the users of the store see. */
export function visibleLabels(labels: Labels): Labels {
  return Object.fromEntries(Object.entries(labels).filter(([label]) => !isOwn(label)));
}

const KINDS: Readonly<Record<WireKind, SnapshotKind>> = {
  // containerd has only the other three; an unknown one must not be taken for a finished layer
  UNKNOWN: 'active',
  ACTIVE: 'active',
  VIEW: 'view',
  COMMITTED: 'committed',
};

export function kindOf({ kind }: Pick<WireSnapshot, 'kind'>): SnapshotKind {
  return KINDS[kind];
}

export function infoOf(snapshot: WireSnapshot): SnapshotInfo {
  const { name, parent, labels } = snapshot;
  return {
    kind: kindOf(snapshot),
    name,
    parent,
    labels: visibleLabels(labels),
    created: dateOf(snapshot.createdAt),
    updated: dateOf(snapshot.updatedAt),
    synced: LABEL_SYNCED in labels,
  };
}

export function dateOf(time: WireSnapshot['createdAt']): Date {
  const { seconds, nanos } = time ?? { seconds: 0, nanos: 0 };
  return new Date(seconds * 1000 + Math.floor(nanos / 1_000_000));
}

/** Tells a snapshot from one of the same name that was made earlier or later. */
export function versionOf({ name, createdAt }: Pick<WireSnapshot, 'name' | 'createdAt'>): string {
  return `${createdAt?.seconds}.${createdAt?.nanos} ${name}`;
}

/** @throws UnpackError STORE_FAILED for mounts that are neither binds nor overlays */
export function mountsOf(mounts: readonly WireMount[]): Mount[] {
  return mounts.map(({ type, source, options }) => {
    if (type === 'bind' || type === 'overlay') return { type, source, options: [...options] };
    throw new UnpackError(
      'STORE_FAILED',
      `containerd's snapshotter mounts layers as ${type}: set UNPACK_CONTAINERD_SNAPSHOTTER=overlayfs`,
    );
  });
}

/** The filter in containerd's language, as far as it has a form for it. The caller checks the answer with `matches`. */
export function filtersOf({ name, parent, kind }: SnapshotFilter): string[] {
  const parts = [
    ...(name === undefined ? [] : [`name==${quoted(name)}`]),
    ...(parent === undefined || parent === '' ? [] : [`parent==${quoted(parent)}`]),
    ...(kind === undefined ? [] : [`kind==${kind}`]),
  ];
  return parts.length === 0 ? [] : [parts.join(',')];
}

export function matches(info: SnapshotInfo, { name, parent, kind, labels = {} }: SnapshotFilter): boolean {
  return (
    (name === undefined || name === info.name) &&
    (parent === undefined || parent === info.parent) &&
    (kind === undefined || kind === info.kind) &&
    Object.entries(labels).every(([label, value]) => info.labels[label] === value)
  );
}

/** A filter for names that begin with `prefix`. @param prefix ASCII */
export function prefixFilter(prefix: string): string {
  const escaped = prefix.replace(/[^A-Za-z0-9]/g, (sign) => `\\x{${sign.charCodeAt(0).toString(16)}}`);
  return `name~=${quoted(`^${escaped}`)}`;
}

/** A string of containerd's filter language, which has Go's escapes. Those of JSON are among them. */
function quoted(text: string): string {
  return JSON.stringify(text);
}
