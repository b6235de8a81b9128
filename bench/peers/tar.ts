import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { bash, onPath, quoted } from '../commands.ts';
import type { BenchLayer } from '../images/bench-image.ts';
import { type Entrant, type Task, Unavailable } from './contestant.ts';

/**
 * GNU tar, one layer after the other, each into a folder of its own. No digest is checked, and whiteouts stay files.
 */
export function tar({ image, folder }: Task): Entrant {
  return {
    name: 'tar -x',
    how: 'tar -x of each layer in turn, igzip or zstd before it; no digests, no whiteouts',
    async enter() {
      if (!onPath('tar')) throw new Unavailable('tar is not installed');
      const inflate = inflater(image.layers);
      const place = join(folder, 'tar');
      const lines = image.layers.map(({ path }, index) => {
        const target = quoted(join(place, String(index)));
        return `mkdir -p ${target}; ${inflate} <${quoted(path)} | tar ${TAR_FLAGS} -xf - -C ${target}`;
      });
      return {
        prepare: async () => void (await mkdir(place, { recursive: true })),
        run: async () => void (await bash(lines.join('\n'))),
        reset: () => rm(place, { recursive: true, force: true }),
      };
    },
  };
}

/** Owners by number, modes unchanged, extended attributes. With large blocks GNU tar needs fewer read calls. */
export const TAR_FLAGS = "--numeric-owner --same-owner -p --xattrs --xattrs-include='*' --warning=none -b 128";

/** The fastest installed program that decompresses these layers. @throws Unavailable */
export function inflater(layers: readonly BenchLayer[]): string {
  const kinds = new Set(layers.map(({ compression }) => compression));
  if (kinds.size > 1) throw new Unavailable('the layers are compressed in different ways');
  const wanted = kinds.has('gzip')
    ? ['igzip -dc', 'pigz -dc', 'gzip -dc']
    : kinds.has('zstd')
      ? ['zstd -dcq']
      : ['cat'];
  const found = wanted.find((command) => onPath(command.split(' ')[0] ?? ''));
  if (found === undefined) throw new Unavailable(`none of ${wanted.join(', ')} is installed`);
  return found;
}
