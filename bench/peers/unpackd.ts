import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { UnpackResult } from '../../src/queue/formats.ts';
import type { Build } from '../build.ts';
import { run } from '../commands.ts';
import type { Contestant, Entrant, Task } from './contestant.ts';
import type { LateRemoval } from './removal.ts';

export interface UnpackdOptions {
  readonly durable?: boolean;
  /** More flags of `unpackd apply`. */
  readonly flags?: readonly string[];
  /** A source instead of the layout: `s3://…`. */
  readonly source?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly servers?: readonly number[];
  /** Keeps measured stores until the end. Default: they are removed after each round. */
  readonly removal?: LateRemoval;
  /** Called with the result of each run (schemas/result.schema.json). */
  readonly onResult?: (result: UnpackResult) => void;
}

/** `unpackd apply`, with a new process and a new store for each run. */
export function unpackd(build: Build, task: Task, options: UnpackdOptions = {}, name = 'unpackd'): Entrant {
  const { durable = false } = options;
  return {
    name,
    how: `unpackd apply${durable ? '' : ' --durable false'}: a new process, Node’s start included`,
    enter: async () => contestant(build, task, { ...options, durable }),
  };
}

function contestant(build: Build, { image, folder }: Task, options: UnpackdOptions): Contestant {
  const store = join(folder, 'store');
  const source = options.source ?? `${image.folder}:${image.tag}`;
  const args = [build.cli, 'apply', source, '--json', '--root', store, '--durable', String(options.durable)];
  return {
    standing: { workers: [], servers: options.servers ?? [] },
    async run() {
      const json = await run(build.node, [...args, ...(options.flags ?? [])], { env: { ...options.env } });
      options.onResult?.(JSON.parse(json));
      return undefined;
    },
    async reset() {
      if (options.removal !== undefined && existsSync(store)) await options.removal.take(store);
      else await rm(store, { recursive: true, force: true });
    },
  };
}
