import { join } from 'node:path';
import { bash, quoted } from '../commands.ts';
import {
  ContainerdDaemon,
  type ContainerdPrograms,
  type DaemonOptions,
  findContainerd,
  gzipOf,
} from './containerd-daemon.ts';
import { type Contestant, type Entrant, type Task, Unavailable } from './contestant.ts';
import type { LateRemoval } from './removal.ts';

export interface ContainerdOptions {
  /** A folder with `containerd` and `ctr`; default: those on the PATH. */
  readonly programs?: string | undefined;
  /** Make the snapshots durable: with `--sync-fs` for each layer in 2.x, with one syncfs at the end in 1.x. */
  readonly sync?: boolean;
  /** Keeps the files of measured snapshots until the end. Default: they are removed after each round. */
  readonly removal?: LateRemoval | undefined;
}

/**
 * `ctr snapshots unpack` of an image that is in the content store. containerd applies one layer after the other. The
 * daemon runs during the whole race, and its usage counts.
 */
export function containerd(task: Task, options: ContainerdOptions = {}): Entrant {
  const { sync = false } = options;
  return {
    name: `${nameOf(options.programs)}${sync ? ', synced' : ''}`,
    how: `ctr snapshots unpack, blobs in its content store; overlayfs${gzipText(options.programs)}`,
    async enter(): Promise<Contestant> {
      const programs = findContainerd(options.programs);
      const daemon = await ContainerdDaemon.start(programs, join(task.folder, 'containerd'));
      const { image } = task;
      const name = 'bench.example/image:app';
      const importing = daemon.command('images', 'import', '--no-unpack', '--base-name', 'bench.example/image', '-');
      return {
        standing: { workers: [daemon.pid], servers: [] },
        async prepare() {
          await bash(`tar -C ${quoted(image.folder)} -cf - . | ${importing.map(quoted).join(' ')}`);
        },
        async run() {
          const own = sync && programs.major >= 2;
          await daemon.ctr('snapshots', 'unpack', ...(own ? ['--sync-fs'] : []), image.manifestDigest);
          if (sync && !own) await bash(`sync -f ${quoted(task.folder)}`);
          return undefined;
        },
        // only the image refers to the snapshots, so they are removed with it; --sync waits for their files too
        async reset() {
          await options.removal?.takeSnapshots(daemon.overlaySnapshots);
          await daemon.ctr('images', 'rm', '--sync', name);
        },
        close: () => daemon.stop(),
      };
    },
  };
}

export interface PullOptions extends ContainerdOptions {
  /** `127.0.0.1:5000/bench/app:app`. */
  readonly reference: string;
  readonly servers: readonly number[];
  /** Layers that are unpacked at once, by containerd 2.2 and later. Default: one after the other. */
  readonly parallel?: number;
}

/** `ctr images pull` from a registry: download, content store, snapshots. */
export function containerdPull(task: Task, options: PullOptions): Entrant {
  const { reference, servers, parallel } = options;
  return {
    name: `${nameOf(options.programs)}${parallel === undefined ? '' : `, ${parallel} layers at once`}`,
    how: `ctr images pull from docker-registry; overlayfs${gzipText(options.programs)}`,
    async enter(): Promise<Contestant> {
      const programs = findContainerd(options.programs);
      if (parallel !== undefined && !unpacksInParallel(programs))
        throw new Unavailable(
          `containerd ${programs.version} applies one layer after the other; 2.2 is the first that can do more`,
        );
      const daemonOptions: DaemonOptions = parallel === undefined ? {} : { parallelUnpacks: parallel };
      const daemon = await ContainerdDaemon.start(programs, join(task.folder, 'containerd'), daemonOptions);
      return {
        standing: { workers: [daemon.pid], servers },
        run: async () => void (await daemon.ctr('images', 'pull', '--plain-http', reference)),
        reset: async () => void (await daemon.ctr('images', 'rm', '--sync', reference)),
        close: () => daemon.stop(),
      };
    },
  };
}

export function unpacksInParallel({ major, minor }: ContainerdPrograms): boolean {
  return major > 2 || (major === 2 && minor >= 2);
}

function gzipText(folder: string | undefined): string {
  try {
    return `; gzip by ${gzipOf(findContainerd(folder))}`;
  } catch {
    return '';
  }
}

export function nameOf(folder: string | undefined): string {
  try {
    return `containerd ${findContainerd(folder).version}`;
  } catch {
    return 'containerd';
  }
}
