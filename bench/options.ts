import { join } from 'node:path';
import { parseArgs } from 'node:util';

export interface BenchOptions {
  readonly quick: boolean;
  /** Names of scenarios, or the beginnings of names. Empty: all. */
  readonly only: readonly string[];
  readonly image: string | undefined;
  readonly rounds: number;
  readonly folder: string | undefined;
  readonly diskFolder: string | undefined;
  readonly containerds: readonly string[];
  /** Checkouts of other commits, whose workers take part in the scenarios `observed-…`. */
  readonly otherCheckouts: readonly string[];
  /** The folder for the results. */
  readonly results: string;
  /** Write the results into bench/results/published, docs/performance.md and README.md, too. */
  readonly publish: boolean;
}

export const USAGE = `npm run bench -- [options]

  --quick            a few scenarios, two rounds each, no warm-up: two minutes
  --only NAME        scenarios whose name begins with NAME; may be repeated
  --rounds N         measured rounds (default 5, with --quick 2), after a warm-up round
  --image DIR        a folder with the OCI layouts gzip/ and zstd/, tag app (default: made from files of this machine)
  --dir DIR          the working folder (default: a new tmpfs, or without root the temporary folder)
  --disk-dir DIR     a folder on a disk, for the disk scenarios (default: the temporary folder, or the project)
  --containerd DIR   a folder with another containerd and ctr, besides those on the PATH; may be repeated
  --other-checkout DIR  a checkout of another commit, with its node_modules, whose worker takes part in observed-jobs
                     and observed-image; may be repeated
  --results DIR      the folder for tables, figures and plots (default bench/results/latest)
  --publish          write the results into bench/results/published, docs/performance.md and README.md, too
  --list             the scenarios and how long they take`;

/** @returns `help` or `list` for these flags @throws Error for wrong use */
export function parseOptions(args: readonly string[], packageRoot: string): BenchOptions | 'help' | 'list' {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: 'boolean', default: false },
      only: { type: 'string', multiple: true, default: [] },
      rounds: { type: 'string' },
      image: { type: 'string' },
      dir: { type: 'string' },
      'disk-dir': { type: 'string' },
      containerd: { type: 'string', multiple: true, default: [] },
      'other-checkout': { type: 'string', multiple: true, default: [] },
      results: { type: 'string', default: join(packageRoot, 'bench', 'results', 'latest') },
      publish: { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return 'help';
  if (values.list) return 'list';
  const rounds = values.rounds === undefined ? (values.quick ? 2 : 5) : Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1)
    throw new Error(`--rounds ${values.rounds}: give a whole number from 1 on`);
  return {
    quick: values.quick,
    only: values.only,
    image: values.image,
    rounds,
    folder: values.dir,
    diskFolder: values['disk-dir'],
    containerds: values.containerd,
    otherCheckouts: values['other-checkout'],
    results: values.results,
    publish: values.publish,
  };
}
