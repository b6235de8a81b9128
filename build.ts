import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { build } from 'esbuild';

/**
 * What `npm run build` runs: every source as JavaScript with its types, for who imports unpackd, and beside them the programs
 * in one file each, for who starts it.
 *
 *     node build.ts [FOLDER]     into dist, which is emptied, or into another folder beside package.json
 */
const PROGRAMS = ['src/cli/main.ts', 'workers/apply.ts'];

/**
 * Packages that go into the files: many small ones, of which little is used. The others are loaded when they are wanted, or
 * look for files of their own beside them.
 */
const INLINED = ['commander', 'zod'];

const root = import.meta.dirname;

/**
 * A command needs some 170 modules, and Node takes about a millisecond to find, read and link one: that was most of a short
 * command's time. As CommonJS, because there a module inside a file runs only when it is asked for, and so do its packages.
 * @throws Error of esbuild
 */
async function makePrograms(folder: string): Promise<void> {
  const { warnings } = await build({
    absWorkingDir: root,
    entryPoints: PROGRAMS,
    outdir: folder,
    // at the places of the sources: they find each other and package.json by paths from where they are
    outbase: root,
    outExtension: { '.js': '.cjs' },
    bundle: true,
    format: 'cjs',
    platform: 'node',
    target: 'node24',
    external: dependencies().filter((name) => !INLINED.includes(name)),
    define: {
      'import.meta.filename': '__filename',
      'import.meta.dirname': '__dirname',
      // what else is in the file is there to be called, not to run by itself
      'import.meta.main': 'false',
    },
    sourcemap: true,
    logLevel: 'warning',
  });
  if (warnings.length > 0) throw new Error(`esbuild has warned: ${warnings.map(({ text }) => text).join('; ')}`);
}

/** @throws Error that says which types are wrong; all the JavaScript is there then */
function compile(folder: string): void {
  const options = ['-p', join(root, 'tsconfig.build.json'), '--outDir', folder];
  const { status, stdout } = spawnSync(join(root, 'node_modules/.bin/tsc'), options, { encoding: 'utf8' });
  if (status !== 0) throw new Error(stdout);
}

function dependencies(): string[] {
  const { dependencies }: { dependencies: object } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  return Object.keys(dependencies);
}

const folder = resolve(root, process.argv[2] ?? 'dist');
if (process.argv[2] === undefined) rmSync(folder, { recursive: true, force: true });
await makePrograms(folder);
compile(folder);
