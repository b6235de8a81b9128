import { availableParallelism } from 'node:os';
import type { BenchImage } from '../images/bench-image.ts';
import { containerdPull, unpacksInParallel } from '../peers/containerd.ts';
import { findContainerd } from '../peers/containerd-daemon.ts';
import { type Entrant, Unavailable } from '../peers/contestant.ts';
import { folderFor } from '../race.ts';
import { type ImageServers, referenceOf } from '../servers/image-servers.ts';
import type { Stage } from './scenario.ts';

/**
 * `ctr images pull` from the registry by each containerd: with one layer at a time, and by those that can also with several
 * layers at once.
 */
export async function pullEntrants(
  stage: Stage,
  image: BenchImage,
  { registry }: Pick<ImageServers, 'registry'>,
): Promise<Entrant[]> {
  if (registry instanceof Unavailable) return [absent('containerd', registry.message)];
  const task = async (name: string) => ({ image, folder: await folderFor(stage.folder, name) });
  const options = { reference: referenceOf(image, registry), servers: [registry.pid] };
  const entrants: Entrant[] = [];
  let parallel = false;
  for (const [index, programs] of [undefined, ...stage.containerds].entries()) {
    entrants.push(containerdPull(await task(`containerd-${index}`), { ...options, programs }));
    if (!canUnpackInParallel(programs)) continue;
    parallel = true;
    const folder = await task(`containerd-${index}-parallel`);
    entrants.push(containerdPull(folder, { ...options, programs, parallel: Math.max(4, availableParallelism()) }));
  }
  if (!parallel)
    entrants.push(absent('containerd with parallel unpacking', 'needs containerd 2.2 or later: --containerd DIR'));
  return entrants;
}

function canUnpackInParallel(folder: string | undefined): boolean {
  try {
    return unpacksInParallel(findContainerd(folder));
  } catch {
    return false;
  }
}

function absent(name: string, reason: string): Entrant {
  return {
    name,
    how: '',
    enter: async () => {
      throw new Unavailable(reason);
    },
  };
}
