import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { build } from 'esbuild';
import { LayoutWriter } from './dev/layout-writer.ts';

/**
 * What `npm run build` runs: every source as JavaScript with its types, for who imports unpackd, and beside them the programs
 * in one file each, for who starts it.
 *
 *     node build.ts [FOLDER]     into dist, which is emptied, or into another folder beside package.json
 */
const PROGRAMS = ['src/cli/main', 'workers/apply', 'workers/store'];

/** The first version with all that is used: zstd, node:sqlite, type stripping. */
const OLDEST_NODE = 24;

/** Where Node finds programs compiled already, below the folder. */
const COMPILED = 'compiled';

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
    entryPoints: PROGRAMS.map((name) => `${name}.ts`),
    outdir: folder,
    // at the places of the sources: they find each other and package.json by paths from where they are
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
      // what else is in the file is there to be called, not to run by itself
      'import.meta.main': 'false',
    },
    sourcemap: true,
    logLevel: 'warning',
  });
  if (warnings.length > 0) throw new Error(`esbuild has warned: ${warnings.map(({ text }) => text).join('; ')}`);
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
 * Unpacks a small image, so that Node keeps what it had to compile for it: 10 of the 120 ms that a short command takes. It
 * does so for each user and version of itself by the first program that they run, and never again: let that be a whole
 * one. On a machine that can't unpack, nothing is kept.
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
makeLauncher(folder);
await compileAhead(folder);
compile(folder);
