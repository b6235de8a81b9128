import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { build } from 'esbuild';
import { LayoutWriter } from './dev/layout-writer.ts';

/**
 * `npm run build`: compiles every source to JavaScript with types, for programs that import unpackd, and bundles each
 * program into one file, for its users.
 *
 *     node build.ts [FOLDER]     into dist, which is emptied first, or into another folder beside package.json
 */
const PROGRAMS = ['src/cli/main', 'workers/apply', 'workers/store'];

/** The first version with all that is used: zstd, node:sqlite, type stripping. */
const OLDEST_NODE = 24;

/** The folder of Node's compile cache, below the build folder. */
const COMPILED = 'compiled';

/**
 * Packages that are bundled: they have many small files, and little of them is used. The others are loaded when they are
 * needed, or read files beside them.
 */
const INLINED = ['commander', 'zod'];

const root = import.meta.dirname;

/**
 * Bundles the programs. A command needs about 170 modules, and Node takes a millisecond to find, read and link each: most
 * of the time of a short command. The format is CommonJS, because a module of a bundle then runs only when it is required.
 * @throws Error of esbuild
 */
async function makePrograms(folder: string): Promise<void> {
  const { warnings } = await build({
    absWorkingDir: root,
    entryPoints: PROGRAMS.map((name) => `${name}.ts`),
    outdir: folder,
    // at the same relative paths as the sources, because they find each other and package.json by relative paths
    outbase: root,
    outExtension: { '.js': '.program.cjs' },
    bundle: true,
    format: 'cjs',
    platform: 'node',
    target: 'node24',
    external: dependencies().filter((name) => !INLINED.includes(name)),
    define: {
      'import.meta.filename': '__filename',
      'import.meta.dirname': '__dirname',
      // a bundled module must not run as the main module
      'import.meta.main': 'false',
    },
    sourcemap: true,
    logLevel: 'warning',
  });
  if (warnings.length > 0) throw new Error(`warnings of esbuild: ${warnings.map(({ text }) => text).join('; ')}`);
  for (const name of PROGRAMS) {
    const path = join(folder, name);
    const compiled = relative(dirname(path), join(folder, COMPILED));
    const start = [
      `if (Number.parseInt(process.versions.node, 10) < ${OLDEST_NODE}) {`,
      `  process.stderr.write(\`unpackd: it needs Node ${OLDEST_NODE} or newer, and this is \${process.version}: install a newer Node\\n\`);`,
      '  process.exit(1);',
      '}',
      "const { join } = require('node:path');",
      `require('node:module').enableCompileCache?.(join(__dirname, '${compiled}'));`,
      `require('./${basename(name)}.program.cjs');`,
    ];
    writeFileSync(`${path}.cjs`, `#!/usr/bin/env node\n${start.join('\n')}\n`, { mode: 0o755 });
  }
}

/**
 * Writes `unpackd`, the command that npm puts on the PATH. It runs on the Node in node_modules if `npm ci` has installed one
 * there, because the Node on the PATH may be too old, else on that of the PATH. It is a shell script, because `exec` keeps the
 * process: signals reach the command, and its exit status is that of the command.
 */
function makeLauncher(folder: string): void {
  const lines = [
    '#!/bin/sh',
    'folder=$(dirname "$(readlink -f "$0")")',
    'node=$folder/../node_modules/node/bin/node',
    '[ -x "$node" ] || node=node',
    'exec "$node" "$folder/src/cli/main.cjs" "$@"',
  ];
  writeFileSync(join(folder, 'unpackd'), `${lines.join('\n')}\n`, { mode: 0o755 });
}

/**
 * Unpacks a small image to fill Node's compile cache, which saves 10 of the 120 ms of a short command. Node writes the
 * cache after the first program only, so this program must use all modules. If unpacking fails, the cache is removed.
 */
async function compileAhead(folder: string): Promise<void> {
  const place = mkdtempSync(join(tmpdir(), 'unpackd-build-'));
  try {
    const layout = new LayoutWriter(join(place, 'layout'));
    const signal = AbortSignal.timeout(60_000);
    const contents = { title: 'some sources', folder: join(root, 'src/cli') } as const;
    const layers = [
      await layout.writeLayer({ ...contents, compression: 'gzip' }, signal),
      await layout.writeLayer({ ...contents, prefix: 'usr', compression: 'zstd' }, signal),
    ];
    await layout.writeImage('app', layers);
    const command = [
      'apply',
      `${layout.folder}:app`,
      '--root',
      join(place, 'store'),
      '--json',
      '--ownership',
      'squash',
    ];
    const options = { stdio: 'ignore', timeout: 60_000 } as const;
    const { status } = spawnSync(process.execPath, [join(folder, 'src/cli/main.cjs'), ...command], options);
    if (status !== 0) rmSync(join(folder, COMPILED), { recursive: true, force: true });
  } finally {
    rmSync(place, { recursive: true, force: true });
  }
}

/** @throws Error with the type errors; the JavaScript has been written then */
function compile(folder: string): void {
  const options = ['-p', join(root, 'tsconfig.build.json'), '--outDir', folder];
  const { status, stdout } = spawnSync(join(root, 'node_modules/.bin/tsc'), options, { encoding: 'utf8' });
  if (status !== 0) throw new Error(stdout);
}

/** Copies the files that programs read, to where `src/grpc/definitions.ts` looks for them. */
function copyProtos(folder: string): void {
  const protos = 'src/grpc/protos';
  cpSync(join(root, protos), join(folder, protos), { recursive: true });
}

function dependencies(): string[] {
  const { dependencies }: { dependencies: object } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  return Object.keys(dependencies);
}

const folder = resolve(root, process.argv[2] ?? 'dist');
if (process.argv[2] === undefined) rmSync(folder, { recursive: true, force: true });
await makePrograms(folder);
makeLauncher(folder);
copyProtos(folder);
await compileAhead(folder);
compile(folder);
