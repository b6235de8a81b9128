import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { run, versionOf } from '../commands.ts';
import { type Entrant, type Task, Unavailable } from './contestant.ts';

/** umoci. It applies the layers one after the other into one tree. */
export function umoci({ image, folder }: Task): Entrant {
  const version = /version (\d+\.\d+\.\d+)/.exec(versionOf('umoci') ?? '')?.[1];
  return {
    name: `umoci${version === undefined ? '' : ` ${version}`}`,
    how: 'umoci raw unpack: one tree',
    rounds: 2,
    async enter() {
      if (version === undefined) throw new Unavailable('umoci is not installed (Debian: apt-get install umoci)');
      if (/^0\.[0-4]\./.test(version) && image.layers.some(({ compression }) => compression === 'zstd'))
        throw new Unavailable(`umoci ${version} does not support zstd`);
      const place = join(folder, 'umoci');
      return {
        prepare: async () => void (await mkdir(place, { recursive: true })),
        async run() {
          const source = `${image.folder}:${image.tag}`;
          await run('umoci', ['--log=error', 'raw', 'unpack', '--image', source, join(place, 'tree')]);
          return undefined;
        },
        reset: () => rm(place, { recursive: true, force: true }),
      };
    },
  };
}
