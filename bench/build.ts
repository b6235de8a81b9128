import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './commands.ts';

/** unpackd as its users run it: compiled, by the Node that the project brings. */
export interface Build {
  readonly node: string;
  readonly cli: string;
  readonly worker: string;
  /** The module that has `createUnpacker`, and the one that opens a store, for a resident process of the bench's own. */
  readonly folder: string;
}

/**
 * Compiles into `.bench`, beside `dist`, which is somebody else's: a build during a test must not change what it runs.
 * A mistake of types stops nobody from measuring; `onTypeErrors` is told.
 */
export async function build(packageRoot: string, onTypeErrors: (text: string) => void): Promise<Build> {
  const folder = join(packageRoot, '.bench');
  const cli = join(folder, 'src/cli/main.cjs');
  await rm(cli, { force: true }); // an older one must not be measured for this one
  await run(process.execPath, [join(packageRoot, 'build.ts'), folder]).catch((error: Error) => {
    if (!existsSync(cli)) throw error;
    onTypeErrors(error.message);
  });
  return {
    node: process.execPath,
    cli,
    worker: join(folder, 'workers/unpack.js'),
    folder,
  };
}
