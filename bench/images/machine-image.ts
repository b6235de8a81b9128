import { lstatSync, readdirSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type LayerCompression, LayoutWriter } from '../../dev/layout-writer.ts';
import { type BenchImage, readImage, TAG } from './bench-image.ts';

/**
 * Makes an image from files of this machine, for a run without `--image`: libraries, programs, node_modules of the
 * project, and a layer of deletions.
 * @param limit bytes of files in each of the first three layers
 */
export async function imageOfThisMachine(
  folder: string,
  packageRoot: string,
  compression: LayerCompression,
  limit: number,
): Promise<BenchImage> {
  const layout = new LayoutWriter(folder);
  const signal = new AbortController().signal;
  const deletions = join(folder, 'deletions');
  await mkdir(join(deletions, 'usr', 'bin'), { recursive: true });
  await writeFile(join(deletions, 'usr', 'bin', '.wh.perl'), '');
  await writeFile(join(deletions, 'usr', 'replacement.txt'), 'a file of the last layer\n'.repeat(100));
  const parts = [
    { title: 'libraries', folder: '/', start: 'usr/lib' },
    { title: 'programs and their data', folder: '/', start: 'usr/bin', more: 'usr/share' },
    { title: 'node_modules', folder: packageRoot, start: 'node_modules', prefix: 'app' },
  ];
  const contents = { tarBytes: 0, entries: 0 };
  const layers = [];
  for (const { title, folder, start, more, prefix } of parts) {
    const paths = upTo(limit, folder, more === undefined ? [start] : [start, more]);
    // node-tar adds a folder with everything in it, so a filter chooses the paths
    const taken = new Set(paths);
    layers.push(
      await layout.writeLayer(
        {
          title,
          folder,
          paths: [start, ...(more === undefined ? [] : [more])],
          // node-tar 7.5 has waited for ever among the linked files of /usr/bin
          copyLinks: true,
          leaveOut: (path) => !taken.has(path.replace(/^\.\//, '').replace(/\/$/, '')),
          ...(prefix === undefined ? {} : { prefix }),
          compression,
        },
        signal,
      ),
    );
    contents.entries += paths.length;
  }
  layers.push(await layout.writeLayer({ title: 'deletions', folder: deletions, compression }, signal));
  contents.entries += 5;
  contents.tarBytes = layers.reduce((sum, layer) => sum + layer.tarSize, 0);
  await layout.writeImage(TAG, layers);
  return readImage('machine', folder, contents);
}

/** Paths of files, symbolic links and folders, until the files have `limit` bytes. Special files are left out. */
function upTo(limit: number, root: string, starts: readonly string[]): string[] {
  const found: string[] = [];
  let bytes = 0;
  const visit = (path: string): void => {
    const facts = lstatSync(join(root, path), { throwIfNoEntry: false });
    if (facts === undefined || bytes + facts.size > limit) return;
    if (!facts.isFile() && !facts.isDirectory() && !facts.isSymbolicLink()) return;
    found.push(path);
    if (facts.isFile()) bytes += facts.size;
    if (!facts.isDirectory()) return;
    for (const name of readdirSync(join(root, path)).sort()) visit(`${path}/${name}`);
  };
  for (const start of starts) visit(start);
  return found;
}
