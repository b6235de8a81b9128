import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './commands.ts';

/** The compiled unpackd, and the Node of the project that runs it. */
export interface Build {
  readonly node: string;
  readonly cli: string;
  readonly worker: string;
  /** The build. `resident-process.ts` imports modules from it. */
  readonly folder: string;
}

/**
 * Compiles into `.bench`, not into `dist`, which the user may be running.
 * @param onTypeErrors called with the type errors; they do not stop the benchmark
 */
export async function build(packageRoot: string, onTypeErrors: (text: string) => void): Promise<Build> {
  const folder = join(packageRoot, '.bench');
  const cli = join(folder, 'src/cli/main.cjs');
  await rm(cli, { force: true }); // if the build fails, an older one must not be measured
  await run(process.execPath, [join(packageRoot, 'build.ts'), folder]).catch((error: Error) => {
    if (!existsSync(cli)) throw error;
    onTypeErrors(error.message);
  });
  // the package has no script for each source, which the resident processes import
  const scripts = ['--emitDeclarationOnly', 'false', '--declaration', 'false', '--outDir', folder];
  const compiler = join(packageRoot, 'node_modules/typescript/bin/tsc');
  await run(process.execPath, [compiler, '-p', join(packageRoot, 'tsconfig.build.json'), ...scripts]).catch(
    (error: Error) => onTypeErrors(error.message),
  );
  return {
    node: process.execPath,
    cli,
    worker: join(folder, 'workers/unpack.js'),
    folder,
  };
}
