import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sharedLibraries } from '../../dev/demo/example-image.ts';
import { findProgram } from '../../dev/local-programs.ts';
import { hostPlatform } from '../../src/oci/platform.ts';
import type { CriMount } from '../containerd/cri.ts';
import { imageOf, layerOf, writeLayout } from '../support/layout.ts';
import { directory, file, symlink, tar } from '../support/tar.ts';

/** An image of unpackd for tests that start containers of it. */
export interface ContainerImage {
  /** An OCI layout with the tag `v1`. */
  readonly layout: string;
  /** What the containers need besides, read-only. */
  readonly mounts: readonly CriMount[];
}

/**
 * UNPACKD_IMAGE names the layout of an image that the Dockerfile has built; .ci/image makes one. Without it, an image is made that
 * starts as that of the Dockerfile does. It has busybox in place of Debian, and the programs are mounts of this checkout's
 * build, because a large image takes a minute.
 * @param place an empty folder
 */
export async function containerImage(place: string): Promise<ContainerImage> {
  const given = process.env.UNPACKD_IMAGE ?? '';
  if (given !== '') return { layout: given, mounts: [] };
  const app = join(place, 'app');
  mkdirSync(app);
  execFileSync(process.execPath, [join(ROOT, 'build.ts'), join(app, 'dist')], { cwd: ROOT });
  const layout = join(place, 'layout');
  const config = startOf(readFileSync(join(ROOT, 'Dockerfile'), 'utf8'));
  await writeLayout(layout, { v1: imageOf([layerOf(tar(...system()))], hostPlatform(), {}, { config }) });
  const mount = (hostPath: string, containerPath: string): CriMount => ({
    hostPath,
    containerPath,
    readonly: true,
    propagation: 'PROPAGATION_PRIVATE',
  });
  // the mount points in `app`, because a mount of it is read-only
  mkdirSync(join(app, 'node_modules'));
  writeFileSync(join(app, 'package.json'), '');
  return {
    layout,
    mounts: [
      mount(process.execPath, '/usr/local/bin/node'),
      ...(await sharedLibraries(process.execPath)).map((library) => mount(library, library)),
      mount(app, '/app'),
      ...['node_modules', 'package.json'].map((name) => mount(join(ROOT, name), `/app/${name}`)),
    ],
  };
}

const ROOT = join(import.meta.dirname, '../..');

function system() {
  const busybox = findProgram('busybox');
  if (busybox === undefined) throw new Error('busybox is not installed: apt-get install busybox-static');
  const folders = ['bin', 'dev', 'etc', 'proc', 'sys', 'tmp', 'usr', 'usr/local', 'usr/local/bin'];
  return [
    ...folders.map((name) => directory(name)),
    file('bin/busybox', readFileSync(busybox), { mode: 0o755 }),
    ...['sh', 'dirname', 'readlink', 'touch', 'cat'].map((name) => symlink(`bin/${name}`, 'busybox')),
    symlink('usr/local/bin/unpackd', '/app/dist/unpackd'),
  ];
}

/** Command, environment and folder of the image that a Dockerfile builds. */
function startOf(dockerfile: string): object {
  const last = dockerfile.slice(dockerfile.lastIndexOf('\nFROM '));
  const list = (instruction: string): string[] =>
    JSON.parse(new RegExp(`^${instruction} (\\[.*\\])$`, 'm').exec(last)?.[1] ?? '');
  const env = [...last.matchAll(/^ENV (\S+)$/gm)].map(([, setting]) => setting);
  return {
    Entrypoint: list('ENTRYPOINT'),
    Cmd: list('CMD'),
    Env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', ...env],
    WorkingDir: '/app',
  };
}
