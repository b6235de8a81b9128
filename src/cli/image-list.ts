import type { ImageListing } from '../snapshots/images.ts';
import type { MountPlace } from '../snapshots/snapshotter.ts';
import type { StoreReader } from '../snapshots/store.ts';
import { ageText, bytesText } from '../units.ts';
import { shortHex } from './find-snapshot.ts';
import type { Cli } from './output.ts';
import { type Cell, type Column, table } from './table.ts';

/** `unpackd images ls`. */

const COLUMNS: readonly Column[] = [
  { title: 'REFERENCE', cut: 'middle', least: 20 },
  { title: 'PLATFORM', cut: 'middle', least: 7 },
  { title: 'DIGEST', cut: 'end', least: 8 },
  { title: 'OWN', align: 'right' },
  { title: 'SHARED', align: 'right' },
  { title: 'AGE', align: 'right' },
  { title: 'USED', align: 'right' },
  { title: 'STATE' },
];

export async function listImages(store: StoreReader, { out }: Cli): Promise<void> {
  const { places, unseen } = await store.mounted();
  const images = (await store.images()).map((image) => ({ ...image, ...mountedAt(image, places) }));
  out.result({ root: store.root, type: store.type, images, unseen: unseen ?? null }, () => {
    // containerd tells by its snapshots which images are in use
    const hasContainers = store.collectedBy === 'containerd';
    if (unseen !== undefined && !hasContainers) out.note(`not all mounts are seen, because ${unseen}`);
    if (images.length === 0) return [`no images in ${store.root}`];
    const digest = out.width === undefined ? (whole: string) => whole : shortHex;
    const rows = images.map((image): Cell[] => [
      image.reference,
      image.platform,
      digest(image.manifestDigest ?? image.chainId ?? ''),
      sizeText(image, image.own.bytes),
      sizeText(image, image.shared.bytes),
      ageText(image.unpacked),
      ageText(image.used),
      stateText(image, hasContainers),
    ]);
    return table(COLUMNS, rows, out.width);
  });
}

/** `>`: the sizes of some snapshots are not known. */
export function sizeText({ unmeasured }: Pick<ImageListing, 'unmeasured'>, bytes: number): string {
  return `${unmeasured > 0 ? '>' : ''}${bytesText(bytes)}`;
}

/** An image, and where it is mounted. */
export interface PlacedImage extends ImageListing {
  /** Absent if no process has it mounted. */
  readonly mounted?: MountPlace;
}

/** @param places of `Snapshotter.mounted` */
export function mountedAt(
  { chainId = '' }: ImageListing,
  places: ReadonlyMap<string, MountPlace>,
): Pick<PlacedImage, 'mounted'> {
  const mounted = places.get(chainId);
  return mounted === undefined ? {} : { mounted };
}

/** @param hasContainers whether the users of an image are containers, so that it is shown whether there are any */
function stateText({ broken, pinned, mounted, usedBy }: PlacedImage, hasContainers: boolean): string {
  const inUse = hasContainers && usedBy.length > 0;
  const words = { broken: broken !== undefined, pinned, mounted: mounted !== undefined, 'in use': inUse };
  return Object.entries(words)
    .flatMap(([word, is]) => (is ? [word] : []))
    .join(', ');
}
