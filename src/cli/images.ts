import { Command, Option } from 'commander';
import { UnpackError } from '../errors.ts';
import { printable } from '../printable.ts';
import type { ImageListing, ImageRecord } from '../snapshots/images.ts';
import { isSnapshotError } from '../snapshots/snapshotter.ts';
import type { Store, StoreReader } from '../snapshots/store.ts';
import { bytesText, count } from '../units.ts';
import { CliError } from './explain-error.ts';
import { type FoundImages, findImages, shown } from './find-image.ts';
import { shortKey } from './find-snapshot.ts';
import { listImages } from './image-list.ts';
import { addRegister } from './image-register.ts';
import { DOCUMENT_NAMES, type DocumentName, documentOf, imageLines, inspectImage } from './image-view.ts';
import type { Cli } from './output.ts';
import { STORE_SETTINGS, takesSettings } from './settings.ts';
import { withReader, withStore } from './store-access.ts';

const EXAMPLES = `
IMAGE is a reference as in the list, or the beginning of one; or the beginning of the digest of its manifest, config or
index, or of its chain ID; or a name with a digest, as Docker prints it (app@sha256:…). A reference can have several
platforms: --platform chooses one of them.

Examples:
  unpackd images ls
  unpackd images inspect s3://images/team/app:1.0
  unpackd images inspect 4f2a9c --json | jq '.images[0].config.config.Env'
  unpackd images inspect app:1.0 --document config > config.json
  unpackd images pin app:1.0
  unpackd images ls --json | jq -r '.images[] | select(.pinned | not) | .reference'`;

interface PlatformOption {
  readonly platform?: string;
}

interface InspectOptions extends PlatformOption {
  readonly document?: DocumentName;
}

/** `unpackd images …`: shows, pins and removes the images of a store. */
export function imagesCommand(cli: Cli): Command {
  const group = new Command('images')
    .description(
      'Shows and changes the images in the store of this machine. Workers can use the store at the same time.',
    )
    .addHelpText('after', EXAMPLES);

  const add = (name: string, description: string) => {
    const command = group.command(name).description(description).option('--json', 'print one JSON document');
    return takesSettings(command, STORE_SETTINGS);
  };
  const platform = () =>
    new Option('--platform <platform>', 'only the image of this platform, for example linux/arm64');

  const ls = add('ls', 'List images.').action(() => withReader(ls, (store) => listImages(store, cli)));

  const inspect = add('inspect', 'Show an image: its documents, size, use, entrypoint, environment and layers.')
    .argument('<image>')
    .addOption(platform())
    .addOption(new Option('--document <name>', 'print one document, byte for byte').choices(DOCUMENT_NAMES))
    .action((image: string, options: InspectOptions) =>
      withReader(inspect, async (store) => {
        const found = findImages(await store.images(), image, options.platform, store.root);
        if (options.document === undefined) await show(store, found, cli);
        else await printDocument(store, found, options.document, cli);
      }),
    );

  const rm = add('rm', 'Remove images, and their snapshots that nothing else needs.')
    .argument('<image...>')
    .addOption(platform())
    .action((images: readonly string[], options: PlatformOption) =>
      changing(rm, images, options, (store, found) => remove(store, found, options, cli), true),
    );

  for (const pinned of [true, false]) {
    const description = pinned ? 'Keep images from being removed.' : 'Allow again that images are removed.';
    const pin = add(pinned ? 'pin' : 'unpin', description)
      .argument('<image...>')
      .addOption(platform())
      .action((images: readonly string[], options: PlatformOption) =>
        changing(pin, images, options, (store, found) => setPinned(store, found, { ...options, pinned }, cli)),
      );
  }

  const register = add('register', 'Make an image known to containerd, which uses this store (unpackd snapshotter).')
    .argument('<image>')
    .addOption(platform());
  addRegister(register, cli);
  return group;
}

/**
 * Opens the store for changes after all images were found, so that a wrong argument changes nothing and makes no store.
 * @param mayUseReserve for the commands that make room on a full disk
 */
async function changing(
  command: Command,
  wanted: readonly string[],
  { platform }: PlatformOption,
  change: (store: Store, found: readonly FoundImages<ImageRecord>[]) => Promise<void>,
  mayUseReserve = false,
): Promise<void> {
  const found = new Map<string, FoundImages<ImageRecord>>();
  await withReader(command, async (store) => {
    const all = await store.images();
    for (const one of wanted) {
      const images = findImages(all, one, platform, store.root);
      found.set(images.reference, images);
    }
  });
  await withStore(command, (store) => change(store, [...found.values()]), mayUseReserve);
}

async function show(store: StoreReader, { images }: FoundImages<ImageListing>, { out }: Cli): Promise<void> {
  const inspected = await Promise.all(images.map((image) => inspectImage(store, image)));
  out.result({ images: inspected }, () =>
    inspected.flatMap((image, index) => [...(index > 0 ? [''] : []), ...imageLines(image, out.width)]),
  );
}

/** @throws CliError USAGE if the reference has several platforms; UnpackError BLOB_NOT_FOUND */
async function printDocument(
  store: StoreReader,
  { reference, images }: FoundImages<ImageListing>,
  name: DocumentName,
  { out }: Cli,
): Promise<void> {
  const [image, second] = images;
  if (second !== undefined) {
    const platforms = images.map(({ platform }) => platform || 'no platform').join(', ');
    throw new CliError('USAGE', `image ${shown(reference)} is there for ${platforms}: choose one with --platform`);
  }
  const bytes = await documentOf(store, image, name);
  if (bytes === undefined) {
    throw new UnpackError('BLOB_NOT_FOUND', `${store.root} has no ${name} of image ${shown(reference)}`);
  }
  out.bytes(bytes);
}

async function setPinned(
  store: Store,
  found: readonly FoundImages<ImageRecord>[],
  { platform, pinned }: PlatformOption & { readonly pinned: boolean },
  { out }: Cli,
): Promise<void> {
  const changed: ImageRecord[] = [];
  for (const { reference } of found) changed.push(...(await store.pinImage(reference, platform, pinned)));
  const word = pinned ? 'pinned' : 'unpinned';
  out.result({ [word]: changed.map(keyOf) }, () => changed.map((image) => `${word} ${nameOf(image)}`));
}

/** A snapshot of a removed image that stays, and why. */
interface Kept {
  readonly name: string;
  readonly why: string;
}

async function remove(
  store: Store,
  found: readonly FoundImages<ImageRecord>[],
  { platform }: PlatformOption,
  { out, signal }: Cli,
): Promise<void> {
  // before the first removal, so that nothing is removed if one of them is pinned
  for (const { images } of found) {
    const pinned = images.find((image) => image.pinned);
    if (pinned === undefined) continue;
    throw new CliError('IMAGE_PINNED', `${nameOf(pinned)} is pinned: run unpackd images unpin first`);
  }
  const images: ImageRecord[] = [];
  const snapshots: string[] = [];
  const kept: Kept[] = [];
  for (const { reference } of found) {
    for (const image of await store.removeImage(reference, platform)) {
      signal.throwIfAborted();
      // containerd has collected what nothing else needs
      const gone = store.collectedBy === 'containerd' ? NOTHING_REMOVED : await removeSnapshots(store, image);
      images.push(image);
      snapshots.push(...gone.removed);
      if (gone.kept !== undefined) kept.push(gone.kept);
      out.line(`removed ${nameOf(image)}${sumText(gone.removed.length, gone.bytes)}`);
      if (gone.kept !== undefined) out.line(`  ${gone.kept.why}`);
    }
  }
  out.result({ removed: images.map(keyOf), snapshots, kept }, () => []);
}

interface RemovedSnapshots {
  readonly removed: readonly string[];
  readonly bytes: number;
  readonly kept: Kept | undefined;
}

const NOTHING_REMOVED: RemovedSnapshots = { removed: [], bytes: 0, kept: undefined };

/** Removes the snapshots of an image whose record is gone, from the top down to the first that something else needs. */
async function removeSnapshots(store: Store, { chainId = '' }: ImageRecord): Promise<RemovedSnapshots> {
  const removed: string[] = [];
  let bytes = 0;
  // once for all layers, because it takes a long time in a store with many images
  const others = await store.images();
  for (let name = chainId; name !== ''; ) {
    const other = others.find((image) => image.chainId === name);
    if (other !== undefined) {
      return { removed, bytes, kept: { name, why: `snapshot ${shortKey(name)} stays: ${nameOf(other)} is the same` } };
    }
    try {
      const { parent, size } = await store.stat(name);
      await store.remove(name);
      removed.push(name);
      bytes += size?.bytes ?? 0;
      name = parent;
    } catch (error) {
      if (isSnapshotError(error, 'NotFound')) break;
      if (!isSnapshotError(error, 'FailedPrecondition')) throw error;
      return { removed, bytes, kept: { name, why: error.message } };
    }
  }
  return { removed, bytes, kept: undefined };
}

const sumText = (snapshots: number, bytes: number): string =>
  snapshots === 0 ? '' : ` and ${count(snapshots, 'snapshot')}, about ${bytesText(bytes)}`;

function nameOf({ reference, platform }: ImageRecord): string {
  return `image ${printable(reference)}${platform === '' ? '' : ` (${platform})`}`;
}

function keyOf({ reference, platform, manifestDigest }: ImageRecord) {
  return { reference, platform, manifestDigest };
}
