import { mkdir, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { bash, onPath, quoted } from '../commands.ts';
import { type Entrant, type Task, Unavailable } from './contestant.ts';
import { inflater, TAR_FLAGS } from './tar.ts';

/** How the tar reaches both openssl and GNU tar. Which way is faster depends on the machine. */
export type Sharing = 'by tee' | 'inflated twice';

/**
 * The floor: the time of native programs that do nothing else. Each layer has a pipeline, the largest layer first, and as
 * many run at once as there are processors. Both digests are computed, but not compared. Whiteouts stay files, and nothing
 * is committed. It uses GNU tar, because bsdtar is slower.
 */
export function nativePipeline({ image, folder }: Task, sharing: Sharing): Entrant {
  return {
    name: `floor: pipeline, ${sharing}`,
    how: `inflate | tar -x, openssl dgst of blob and tar (${sharing}); layers in parallel; no whiteouts, no commits`,
    async enter() {
      for (const needed of ['tar', 'openssl', 'tee', 'xargs'])
        if (!onPath(needed)) throw new Unavailable(`${needed} is not installed`);
      const place = join(folder, 'native');
      const largestFirst = [...image.layers].sort((a, b) => b.size - a.size);
      const one = layerScript(inflater(image.layers), sharing);
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

/** A bash script for one layer. $1 is the blob, $2 the folder to extract into. */
function layerScript(inflate: string, sharing: Sharing): string {
  const extract = `tar ${TAR_FLAGS} -xf - -C "$2"`;
  const both =
    sharing === 'by tee'
      ? [
          'mkfifo "$2.tar"',
          'openssl dgst -sha256 "$2.tar" >/dev/null & diff=$!',
          `${inflate} <"$1" | tee "$2.tar" | ${extract}`,
        ]
      : [`${inflate} <"$1" | openssl dgst -sha256 >/dev/null & diff=$!`, `${inflate} <"$1" | ${extract}`];
  return [
    'set -euo pipefail',
    'mkdir -p "$2"',
    'openssl dgst -sha256 "$1" >/dev/null & blob=$!',
    ...both,
    'wait $blob',
    'wait $diff',
  ].join('\n');
}
