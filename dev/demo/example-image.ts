import { execFile } from 'node:child_process';
import { chmod, copyFile, link, mkdir, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { type LayerContents, LayoutWriter, type WrittenLayer } from '../layout-writer.ts';

/** Development tools, three quarters of node_modules. Compressing them would take a minute. */
const LEFT_OUT = /(^|\/)node_modules\/(node|typescript|@typescript|@biomejs|@types|\.bin|\.cache)(\/|$)/;

/** Paths in the image. `look-inside.ts` checks them in the unpacked tree. */
export const EXPECTED = {
  runtime: 'usr/local/bin/node',
  deletedFile: 'etc/demo/password',
  deletedFolder: 'app/node_modules/fastify',
  replacedFolder: 'srv/cache',
  replacedBy: 'fresh.txt',
  setuid: 'usr/local/bin/greet',
  hardLinks: ['srv/data/original.txt', 'srv/data/same-file.txt'],
  symlink: 'srv/current',
  emptyFolder: 'var/spool/empty',
} as const;

export interface ExampleImage {
  readonly layout: LayoutWriter;
  readonly layers: readonly WrittenLayer[];
  /** The top layer of the second image. The demo damages its blob in the bucket. */
  readonly damaged: WrittenLayer;
}

export const TAG = 'app';
export const DAMAGED_TAG = 'damaged';

/**
 * Makes two images for the demo. `app` has four layers: a Node runtime, node_modules of the project, files of every kind,
 * deletions. `damaged` has a fifth layer.
 * @param packageRoot the folder with node_modules
 * @param work an empty folder for the layout and the files of the layers
 */
export async function makeExampleImage(packageRoot: string, work: string, signal: AbortSignal): Promise<ExampleImage> {
  const layout = new LayoutWriter(join(work, 'layout'));
  const stage = (name: string) => new Stage(join(work, name));

  const runtime = stage('runtime');
  await runtime.copy(process.execPath, EXPECTED.runtime, 0o755);
  for (const library of await sharedLibraries(process.execPath)) await runtime.copy(library, library.slice(1), 0o755);

  const files = stage('files');
  await files.write(EXPECTED.deletedFile, 'not for production\n', 0o600);
  await files.write('srv/cache/stale-1.txt', 'from the layer below\n');
  await files.write('srv/cache/stale-2.txt', 'from the layer below\n');
  await files.write(EXPECTED.setuid, '#!/bin/sh\necho hello\n', 0o4755);
  await files.write(EXPECTED.hardLinks[0], 'one file, two names\n');
  await link(files.path(EXPECTED.hardLinks[0]), files.path(EXPECTED.hardLinks[1]));
  await symlink('data', files.path(EXPECTED.symlink));
  await mkdir(files.path(EXPECTED.emptyFolder), { recursive: true });

  const deletions = stage('deletions');
  await deletions.write(whiteout(EXPECTED.deletedFile), '');
  await deletions.write(whiteout(EXPECTED.deletedFolder), '');
  await deletions.write(`${EXPECTED.replacedFolder}/.wh..wh..opq`, '');
  await deletions.write(`${EXPECTED.replacedFolder}/${EXPECTED.replacedBy}`, 'all that is left\n');

  const extra = stage('extra');
  await extra.write('srv/report.txt', 'figures\n'.repeat(4096));

  const write = (contents: LayerContents) => layout.writeLayer(contents, signal);
  const layers = [
    await write({ title: 'a Node runtime and its libraries', folder: runtime.folder, compression: 'gzip' }),
    await write({
      title: 'node_modules of this project',
      folder: packageRoot,
      paths: ['node_modules'],
      leaveOut: (path) => LEFT_OUT.test(path),
      prefix: 'app',
      compression: 'zstd',
    }),
    await write({ title: 'files of every kind', folder: files.folder, compression: 'gzip' }),
    await write({ title: 'deletions, a replaced folder', folder: deletions.folder, compression: 'zstd' }),
  ];
  await layout.writeImage(TAG, layers);
  const damaged = await write({ title: 'one more file', folder: extra.folder, compression: 'gzip' });
  await layout.writeImage(DAMAGED_TAG, [...layers, damaged]);
  return { layout, layers, damaged };
}

/** A folder that becomes a layer. */
class Stage {
  readonly folder: string;

  constructor(folder: string) {
    this.folder = folder;
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  async write(name: string, text: string, mode = 0o644): Promise<void> {
    await mkdir(dirname(this.path(name)), { recursive: true });
    await writeFile(this.path(name), text);
    await chmod(this.path(name), mode); // the mode of writeFile is reduced by the umask and cannot have setuid
  }

  async copy(from: string, name: string, mode: number): Promise<void> {
    await mkdir(dirname(this.path(name)), { recursive: true });
    await copyFile(from, this.path(name));
    await chmod(this.path(name), mode);
  }
}

/** The whiteout that deletes `path` of the layers below (image spec, layer.md#whiteouts). */
function whiteout(path: string): string {
  return join(dirname(path), `.wh.${basename(path)}`);
}

/** The paths of the shared libraries that a program loads; none if ldd fails. */
export async function sharedLibraries(program: string): Promise<string[]> {
  const { stdout } = await promisify(execFile)('ldd', [program]).catch(() => ({ stdout: '' }));
  // "libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)" and "/lib64/ld-linux-x86-64.so.2 (0x…)"
  return [...stdout.matchAll(/(?:=> |^\s*)(\/\S+) \(0x/gm)].map(([, path = '']) => path);
}
