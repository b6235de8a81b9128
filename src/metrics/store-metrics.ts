import { Gauge } from 'prom-client';
import type { Store } from '../snapshots/store.ts';
import { diskOf } from '../system/space.ts';
import type { MetricsPage } from './metrics-page.ts';

/** Milliseconds for which a number of images is shown again, because a large store takes 40 ms to list them. */
const IMAGES_LIFE = 30_000;

/** Adds the disk of a store, and its number of images. */
export function addStoreMetrics(page: MetricsPage, store: Pick<Store, 'root' | 'images'>): void {
  addDisk(page, store.root);
  addImages(page, store);
}

function addDisk(page: MetricsPage, root: string): void {
  const registers = [page.registry];
  const of = (name: string, help: string) => new Gauge({ name: `unpackd_store_${name}`, help, registers });
  const freeBytes = of('free_bytes', 'Free space of the disk of the store, without what is reserved for root.');
  const bytes = of('size_bytes', 'Size of the disk of the store, without what is reserved for root.');
  const freeInodes = of('free_inodes', 'Free inodes of the disk of the store. Absent if it has no fixed number.');
  const inodes = of('inodes', 'Inodes of the disk of the store. Absent if it has no fixed number.');
  page.add({
    name: 'disk',
    async read() {
      const disk = await diskOf(root);
      freeBytes.set(disk.bytes);
      bytes.set(disk.totalBytes);
      if (disk.inodes === undefined || disk.totalInodes === undefined) return;
      freeInodes.set(disk.inodes);
      inodes.set(disk.totalInodes);
    },
    clear() {
      for (const one of [freeBytes, bytes, freeInodes, inodes]) one.remove();
    },
  });
  for (const one of [freeBytes, bytes, freeInodes, inodes]) one.remove();
}

function addImages(page: MetricsPage, store: Pick<Store, 'images'>): void {
  const images = new Gauge({
    name: 'unpackd_store_images',
    help: 'Images in the store. Read at most every 30 seconds.',
    registers: [page.registry],
  });
  let read = Number.NEGATIVE_INFINITY;
  page.add({
    name: 'images',
    async read() {
      if (performance.now() - read < IMAGES_LIFE) return;
      images.set((await store.images()).length);
      read = performance.now();
    },
    clear() {
      images.remove();
      read = Number.NEGATIVE_INFINITY;
    },
  });
  images.remove();
}
