import { join } from 'node:path';
import { parseArgs } from 'node:util';

export interface BenchOptions {
  readonly quick: boolean;
  /** Names of scenarios, or beginnings of them; empty: all. */
  readonly only: readonly string[];
  readonly image: string | undefined;
  readonly rounds: number;
  readonly folder: string | undefined;
  readonly diskFolder: string | undefined;
  readonly containerds: readonly string[];
  /** Where the results go. */
  readonly results: string;
  /** Write the results into bench/results/published, docs/performance.md and README.md, too. */
  readonly publish: boolean;
}

export const USAGE = `npm run bench -- [options]

  --quick            a few scenarios, two rounds each and none to warm up: two minutes
  --only NAME        scenarios whose name begins so; may be given more than once
  --rounds N         measured runs of each (default 5, with --quick 2); one more that does not count comes first
  --image DIR        a folder with the OCI layouts gzip/ and zstd/, tag app; default: one made of this machine's files
  --dir DIR          where to work; default: a tmpfs of its own (root), or the temporary folder
  --disk-dir DIR     a folder on the disk, for what is measured there (default: the temporary folder, or the project)
  --containerd DIR   a folder with another containerd and ctr, beside the one on the PATH; may be given more than once
  --results DIR      where the table, the figures and the plots go (default bench/results/latest)
  --publish          write the results into bench/results/published, docs/performance.md and README.md, too
  --list             the scenarios and how long they take`;

/** @returns the text to show instead, where that is what was asked for. @throws Error for wrong use */
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
    results: values.results,
    publish: values.publish,
  };
}
