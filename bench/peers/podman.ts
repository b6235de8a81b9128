import { join } from 'node:path';
import { run, versionOf } from '../commands.ts';
import { removeTree } from '../work-folder.ts';
import { type Entrant, type Task, Unavailable } from './contestant.ts';

/** podman pull of the local layout into a new store: overlay layers, and the record of each file in containers/storage. */
export function podman({ image, folder }: Task): Entrant {
  const version = /(\d+\.\d+\.\d+)/.exec(versionOf('podman') ?? '')?.[1];
  return {
    name: `podman${version === undefined ? '' : ` ${version}`}`,
    how: 'podman pull oci:…, overlay driver',
    rounds: 2,
    async enter() {
      if (version === undefined) throw new Unavailable('podman is not installed (Debian: apt-get install podman)');
      if (process.getuid?.() !== 0) throw new Unavailable('podman would unpack in a user namespace');
      const place = join(folder, 'podman');
      const flags = ['--root', join(place, 'root'), '--runroot', join(place, 'run'), '--storage-driver', 'overlay'];
      return {
        async run() {
          await run('podman', [...flags, 'pull', '--quiet', `oci:${image.folder}:${image.tag}`]);
          return undefined;
        },
        reset: async () => removeTree(place),
      };
    },
  };
}
