import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import { ownStorePlace } from '../config.ts';
import { printable } from '../printable.ts';
import type { Recovered } from '../snapshots/recover.ts';
import {
  type BrokenReason,
  type Claim,
  isSnapshotError,
  type Mount,
  type SnapshotInfo,
  type SnapshotReader,
  type Snapshotter,
  type Usage,
} from '../snapshots/snapshotter.ts';
import type { StoreReader } from '../snapshots/store.ts';
import { bytesText } from '../units.ts';
import { findSnapshot } from './find-snapshot.ts';
import { mountLines } from './mount-lines.ts';
import type { Cli } from './output.ts';
import { configOf, STORE_SETTINGS, takesSettings } from './settings.ts';
import { imagesBySnapshot, type ListOptions, listSnapshots, withSizes } from './snapshot-list.ts';
import { describe, mountAt, unmountAt } from './snapshot-mount.ts';
import { releaseSnapshots } from './snapshot-release.ts';
import { refuseForContainerd, withReader, withStore } from './store-access.ts';
import { type Cell, type Column, table } from './table.ts';

const EXAMPLES = `
The key of a committed snapshot is its chain ID. The beginning of a key is enough if only one key begins with it.

Examples:
  unpackd snapshots ls --kind committed
  unpackd snapshots usage
  unpackd snapshots mount sha256:4f2a /mnt && ls /mnt && unpackd snapshots umount /mnt
  unpackd snapshots mounts sha256:4f2a /mnt | sh
  unpackd snapshots ls --json | jq -r '.snapshots[] | select(.kind == "active") | .name'`;

interface RemoveOptions {
  readonly withParents?: true;
}

/** `unpackd snapshots …`: shows, mounts and removes the snapshots of a store. */
export function snapshotsCommand(cli: Cli): Command {
  const group = new Command('snapshots')
    .description('Shows and changes the snapshot store of this machine. Workers can use the store at the same time.')
    .addHelpText('after', EXAMPLES);

  const add = (name: string, description: string) => {
    const command = group.command(name).description(description).option('--json', 'print one JSON document');
    return takesSettings(command, STORE_SETTINGS);
  };

  const ls = add('ls', 'List snapshots.')
    .addOption(new Option('--kind <kind>', 'list only snapshots of this kind').choices(['active', 'view', 'committed']))
    .option('--parent <name>', 'list only the children of this snapshot')
    .action((options: ListOptions) => withReader(ls, (store) => listSnapshots(store, options, cli)));

  const stat = add('stat', 'Show a snapshot with its labels.')
    .argument('<key>')
    .action((key: string) => withReader(stat, (store) => show(store, key, cli)));

  const usage = add('usage', 'Show the disk usage of snapshots, without their parents.')
    .argument('[key...]', 'default: all')
    .action((keys: readonly string[]) => withReader(usage, (store) => disk(store, keys, cli)));

  const mount = add('mount', 'Mount a snapshot at a folder, which is created if it is missing. Needs root.')
    .argument('<key>')
    .argument('<folder>')
    .option('--writable', 'with a writable layer on top, which umount removes')
    .action((key: string, folder: string, options: { readonly writable?: true }) =>
      withStore(mount, async (store) => {
        const info = await findSnapshot(store, key);
        const [at, writable] = [resolve(folder), options.writable === true];
        await mountAt(store, info, at, writable);
        cli.out.result({ key: info.name, folder: at, writable }, () => [
          `${info.name} is mounted at ${at}${writable ? ', writable' : ''}`,
        ]);
      }),
    );

  const mounts = add(
    'mounts',
    'Print the mounts of a snapshot as commands, and mount nothing. A committed one is read-only.',
  )
    .argument('<key>')
    .argument('[folder]', 'where the commands mount it', '/mnt')
    .action((key: string, folder: string) =>
      withReader(mounts, async (store) => {
        const info = await findSnapshot(store, key);
        const found = await mountsOf(store, info);
        cli.out.result({ key: info.name, mounts: found }, () => mountLines(found, resolve(folder)));
      }),
    );

  const umount = add('umount', 'Unmount a folder that mount has mounted.')
    .argument('<folder>')
    .action((argument: string) =>
      withStore(umount, async (store) => {
        const folder = resolve(argument);
        const left = await unmountAt(store, folder);
        const still =
          left === undefined ? 'nothing is mounted at' : `${describe(left)}, which is not the store's, stays at`;
        cli.out.result({ folder }, () => [`${still} ${folder}${left === undefined ? ' any more' : ''}`]);
      }),
    );

  const rm = add('rm', 'Remove snapshots. A snapshot with children is not removed.')
    .argument('<key...>')
    .option('--with-parents', 'also remove the parents that have no other children: a whole image')
    .action((keys: readonly string[], options: RemoveOptions) => {
      refuseForContainerd(rm, 'the removal of snapshots', 'remove the image with unpackd images rm');
      return withStore(rm, (store) => remove(store, keys, options, cli), true);
    });

  const cleanup = add(
    'cleanup',
    'Remove what dead workers left behind: unfinished snapshots, and folders without a snapshot.',
  ).action(() => withStore(cleanup, (store) => clean(store, cli), true));

  const release = add(
    'release',
    'End the claims of a containerd that is gone. What it has made is removed; layers that it has found stay.',
  )
    .argument('[key...]', 'default: all that it has claimed')
    .action((keys: readonly string[]) => {
      refuseForContainerd(release, 'the release of snapshots', 'remove the image with unpackd images rm');
      return withStore(release, (store) => releaseSnapshots(store, keys, cli), true);
    });

  const backup = add('backup', 'Copy the database of the store into a new file. Workers can continue to run.')
    .argument('<file>')
    .action(async (file: string) => {
      const { root } = ownStorePlace(configOf(backup), 'the backup of a database');
      const { backUpDatabase } = await import('../snapshots/recover.ts');
      await backUpDatabase(root, resolve(file));
      cli.out.result({ file: resolve(file) }, () => [`copied the database of ${root} to ${resolve(file)}`]);
    });

  const recover = add(
    'recover',
    'Rebuild the database of the store from the directories of its snapshots. Stop the workers first.',
  ).action(async () => {
    const { root } = ownStorePlace(configOf(recover), 'the recovery of a database');
    const { recoverStore } = await import('../snapshots/recover.ts');
    const recovered = await recoverStore(root);
    cli.out.result(recovered, () => recoveredText(recovered));
  });

  return group;
}

function recoveredText({ whole, broken, foreign, images, earlier }: Recovered): string[] {
  return [
    `the database has ${whole} snapshots again`,
    ...(broken === 0 ? [] : [`${broken} more are broken, because directories are missing: a new job mends them`]),
    images === undefined
      ? 'the records of images and their pins are lost with the database: a new job records its image again, and pins must be set again'
      : `${images} images are recorded, as in the earlier database`,
    ...(foreign.length === 0 ? [] : [`directories that are not of this store stay: ${foreign.join(', ')}`]),
    ...(earlier === undefined ? [] : [`the earlier database is now ${earlier}`]),
  ];
}

function mountsOf(store: StoreReader, { kind, name }: SnapshotInfo): Promise<readonly Mount[]> {
  return kind === 'committed' ? store.viewMounts(name) : store.mounts(name);
}

async function show(store: StoreReader, key: string, { out }: Cli): Promise<void> {
  const found = await findSnapshot(store, key);
  const [info = found] = await withSizes(store, [found]);
  const mounts = info.kind === 'committed' ? [] : await store.mounts(info.name);
  const images = imagesBySnapshot(await store.walk(), await store.images()).get(info.name) ?? [];
  out.result({ ...info, images, mounts }, () => [
    `key      ${printable(info.name)}`,
    `kind     ${info.kind}`,
    ...(info.broken === undefined ? [] : [`broken   ${BROKEN[info.broken]}; remove it, or let a job unpack it again`]),
    ...(info.kind !== 'committed' || info.synced ? [] : [`unsynced ${info.suspect ? SUSPECT : UNSYNCED}`]),
    ...(info.claim === undefined ? [] : [`used by  containerd, ${CLAIMS[info.claim]}`]),
    `parent   ${info.parent === '' ? '(none)' : info.parent}`,
    ...(info.size === undefined ? [] : [`size     ${sizeText(info.size)}, as counted when it was written`]),
    ...images.map((reference) => `image    ${printable(reference)}`),
    `created  ${info.created.toISOString()}`,
    `updated  ${info.updated.toISOString()}`,
    ...Object.entries(info.labels).map(([name, value]) => `label    ${printable(`${name}=${value}`)}`),
    ...mounts.map(({ type, source, options }) => `mount    -t ${type} ${source} -o ${options.join(',')}`),
  ]);
}

const UNSYNCED = 'its files are possibly not on disk yet: a job with UNPACK_DURABLE=true unpacks it again';
const SUSPECT = 'its files were not on disk before a restart or a remount: a job unpacks it again';

const CLAIMS: Readonly<Record<Claim, string>> = {
  made: 'which made it',
  adopted: 'which found it unpacked',
};

const BROKEN: Readonly<Record<BrokenReason, string>> = {
  gone: 'its directory is missing',
  foreign: 'the directory of its number is not its own',
  parent: 'a snapshot below it is broken',
};

const sizeText = ({ bytes, inodes }: Usage): string => `${bytesText(bytes)}, ${inodes.toLocaleString('en-US')} inodes`;

const USAGE_COLUMNS: readonly Column[] = [
  { title: 'SIZE', align: 'right' },
  { title: 'INODES', align: 'right' },
  { title: 'KEY', cut: 'end' },
];

async function disk(store: SnapshotReader, keys: readonly string[], { out, signal }: Cli): Promise<void> {
  const infos = keys.length === 0 ? await store.walk() : await Promise.all(keys.map((key) => findSnapshot(store, key)));
  const snapshots: (Usage & { readonly name: string })[] = [];
  for (const { name } of infos) {
    signal.throwIfAborted(); // reading the disk usage of a large store takes a long time
    snapshots.push({ name, ...(await store.usage(name)) });
  }
  const total = {
    bytes: snapshots.reduce((sum, { bytes }) => sum + bytes, 0),
    inodes: snapshots.reduce((sum, { inodes }) => sum + inodes, 0),
  };
  out.result({ snapshots, total }, () => {
    const rows = [...snapshots, { name: 'total', ...total }].map(({ name, bytes, inodes }): Cell[] => [
      bytesText(bytes),
      inodes.toLocaleString('en-US'),
      name,
    ]);
    return table(USAGE_COLUMNS, rows, out.width);
  });
}

async function remove(
  store: Snapshotter,
  keys: readonly string[],
  { withParents }: RemoveOptions,
  { out, signal }: Cli,
): Promise<void> {
  const removed: string[] = [];
  for (const key of keys) {
    let { name, parent } = await findSnapshot(store, key);
    await store.remove(name);
    for (;;) {
      removed.push(name);
      out.line(`removed ${name}`);
      if (withParents === undefined || parent === '') break;
      signal.throwIfAborted();
      const next = await removeParent(store, parent);
      if (next === undefined) break;
      [name, parent] = [parent, next];
    }
  }
  out.result({ removed }, () => []);
}

/**
 * @returns the parent of the removed snapshot; `undefined` if `name` was not removed, because it has other children or does not
 * exist
 */
async function removeParent(store: Snapshotter, name: string): Promise<string | undefined> {
  try {
    const { parent } = await store.stat(name);
    await store.remove(name);
    return parent;
  } catch (error) {
    if (isSnapshotError(error, 'FailedPrecondition') || isSnapshotError(error, 'NotFound')) return undefined;
    throw error;
  }
}

async function clean(store: Snapshotter, { out }: Cli): Promise<void> {
  const { removeLeftovers } = await import('../rootfs/leftovers.ts');
  const removed = await removeLeftovers(store, (_level, sentence) => out.note(sentence));
  out.result({ removed }, () => [removed === 0 ? 'nothing to remove' : `removed ${removed}`]);
}
