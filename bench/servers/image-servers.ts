import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Payload } from '../../src/queue/formats.ts';
import type { BenchImage } from '../images/bench-image.ts';
import { REPOSITORY, writeRegistryFiles } from '../images/registry-files.ts';
import { Unavailable } from '../peers/contestant.ts';
import { type ServerProcess, startBucket, startRegistry } from './server-process.ts';

/** A bucket and a registry that serve the same files of one image. */
export interface ImageServers {
  readonly s3: ServerProcess;
  readonly bucket: string;
  readonly registry: ServerProcess | Unavailable;
  stop(): void;
}

const BUCKET = 'images';

/** @param folder an empty folder on the file system of the image */
export async function startImageServers(image: BenchImage, folder: string): Promise<ImageServers> {
  const buckets = join(folder, 'buckets');
  const files = join(buckets, BUCKET);
  await mkdir(files, { recursive: true });
  await writeRegistryFiles(image, files);
  const s3 = await startBucket(buckets);
  const registry = await startRegistry(files, folder).catch((error: unknown) => {
    if (error instanceof Unavailable) return error;
    s3.stop();
    throw error;
  });
  return {
    s3,
    bucket: BUCKET,
    registry,
    stop() {
      s3.stop();
      if (!(registry instanceof Unavailable)) registry.stop();
    },
  };
}

/** A job that unpacks the image from the bucket. */
export function payloadOf({ tag }: BenchImage, { bucket }: ImageServers): Payload {
  return {
    version: 1,
    image: `registry.example/${REPOSITORY}:${tag}`,
    source: { bucket, layout: 'distribution', repository: REPOSITORY },
    tag,
  };
}

/** The name by which a program pulls the image from the registry. */
export function referenceOf({ tag }: BenchImage, registry: ServerProcess): string {
  return `${registry.address}/${REPOSITORY}:${tag}`;
}
