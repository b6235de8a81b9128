import { link, mkdir, readdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type BlobDigest, isDigest } from '../../src/oci/digest.ts';
import { bucketKeys } from '../../src/source/bucket-layout.ts';
import type { BenchImage } from './bench-image.ts';

export const REPOSITORY = 'bench/app';

/**
 * Writes the image into `folder` as the CNCF Distribution registry stores it, so that a registry and a bucket can serve
 * the same files. Blobs are hard links, so `folder` must be on the file system of the layout.
 */
export async function writeRegistryFiles(image: BenchImage, folder: string): Promise<void> {
  const keys = bucketKeys({ kind: 'distribution', repository: REPOSITORY }, '');
  const put = async (key: string, text: string) => {
    await mkdir(dirname(join(folder, key)), { recursive: true });
    await writeFile(join(folder, key), text);
  };
  const blobs = join(image.folder, 'blobs', 'sha256');
  for (const hex of await readdir(blobs)) {
    const digest = digestOfName(hex);
    const path = join(folder, keys.blob(digest));
    await mkdir(dirname(path), { recursive: true });
    await link(join(blobs, hex), path);
    await put(keys.repositoryLink('_layers', digest), digest);
  }
  const manifest = digestOfName(image.manifestDigest.slice('sha256:'.length));
  await put(keys.repositoryLink('_manifests/revisions', manifest), manifest);
  await put(keys.tagLink(image.tag), manifest);
  await put(keys.tagHistoryLink(image.tag, manifest), manifest);
}

function digestOfName(hex: string): BlobDigest {
  const digest = `sha256:${hex}`;
  if (!isDigest(digest)) throw new Error(`${hex} is not the name of a blob`);
  return digest as BlobDigest; // checked above
}
