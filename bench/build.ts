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
  const compiler = join(packageRoot, 'node_modules/typescript/bin/tsc');
  const config = join(packageRoot, 'tsconfig.build.json');
  await run(process.execPath, [compiler, '-p', config, '--outDir', folder]).catch((error: Error) => {
    onTypeErrors(error.message);
  });
  return {
    node: process.execPath,
    cli: join(folder, 'src/cli/main.js'),
    worker: join(folder, 'workers/unpack.js'),
    folder,
  };
}
