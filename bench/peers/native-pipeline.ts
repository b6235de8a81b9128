import { mkdir, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { bash, onPath, quoted } from '../commands.ts';
import { type Entrant, type Task, Unavailable } from './contestant.ts';
import { inflater, TAR_FLAGS } from './tar.ts';

export type Extractor = 'GNU tar' | 'bsdtar';

const EXTRACT: Readonly<Record<Extractor, string>> = {
  'GNU tar': `tar ${TAR_FLAGS} -xf - -C`,
  bsdtar: 'bsdtar --numeric-owner -p -xf - -C',
};

/**
 * The floor: what native programs do when nothing but the machine holds them back. Every layer in its own pipeline, the
 * largest first, as many at once as there are processors; both digests are computed and compared with nothing. Whiteouts
 * stay what they are in the archive, nothing is committed anywhere.
 */
export function nativePipeline({ image, folder }: Task, extractor: Extractor): Entrant {
  return {
    name: `floor: pipeline with ${extractor}`,
    how: `inflate | tee (openssl dgst) | ${extractor}, beside openssl dgst of the blob; layers in parallel`,
    async enter() {
      const program = extractor === 'bsdtar' ? 'bsdtar' : 'tar';
      for (const needed of [program, 'openssl', 'tee', 'xargs'])
        if (!onPath(needed)) throw new Unavailable(`${needed} is not installed`);
      const inflate = inflater(image.layers);
      const place = join(folder, 'native');
      const largestFirst = [...image.layers].sort((a, b) => b.size - a.size);
      const one = `set -euo pipefail
        mkdir -p "$2"
        mkfifo "$2.tar"
        openssl dgst -sha256 "$1" >/dev/null & blob=$!
        openssl dgst -sha256 "$2.tar" >/dev/null & diff=$!
        ${inflate} <"$1" | tee "$2.tar" | ${EXTRACT[extractor]} "$2"
        wait $blob
        wait $diff`;
      const pairs = largestFirst.map(({ path }, index) => `${quoted(path)} ${quoted(join(place, String(index)))}`);
      const script = `xargs -n 2 -P ${availableParallelism()} bash -c ${quoted(one)} layer <<'LAYERS'\n${pairs.join('\n')}\nLAYERS`;
      return {
        prepare: async () => void (await mkdir(place, { recursive: true })),
        run: async () => void (await bash(script)),
        reset: () => rm(place, { recursive: true, force: true }),
      };
    },
  };
}
