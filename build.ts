import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { build } from 'esbuild';
import { LayoutWriter } from './dev/layout-writer.ts';
import { noticesOf } from './dev/licences.ts';

/**
 * `npm run build`: bundles each program into one file, and makes the package `unpackd-producer` in the folder `producer`.
 *
 *     node build.ts [FOLDER]     into dist, which is emptied first, or into another folder beside package.json
 */
const PROGRAMS = ['src/cli/main', 'workers/apply', 'workers/store'];

/** The public API. */
const API = 'src/index';

/** The packages that its types are allowed to need, because producers have them, or need their types in any case. */
const TYPED = ['bullmq', 'ioredis'];

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
  const { warnings, metafile } = await build({
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
    metafile: true,
    logLevel: 'warning',
  });
  if (warnings.length > 0) throw new Error(`warnings of esbuild: ${warnings.map(({ text }) => text).join('; ')}`);
  writeNotices(folder, metafile.inputs);
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

/** The licences of the packages in INLINED ask to be beside their code. */
function writeNotices(folder: string, inputs: object): void {
  writeFileSync(join(folder, 'THIRD-PARTY-NOTICES'), noticesOf(root, Object.keys(inputs)));
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

/**
 * Writes the package of producers, which is also what programs import from `unpackd`: `src/index.ts` as one file, its types, and
 * the JSON Schemas. It is CommonJS, because that can be imported and required, and there is one copy of each class then.
 * @throws Error of esbuild; with the type errors of any source
 */
async function makeProducer(folder: string): Promise<void> {
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: [`${API}.ts`],
    outfile: join(folder, 'index.js'),
    bundle: true,
    format: 'cjs',
    platform: 'node',
    target: 'node20',
    external: dependencies().filter((name) => !INLINED.includes(name)),
    metafile: true,
    logLevel: 'warning',
  });
  const used = Object.values(metafile.outputs).flatMap(({ imports }) => imports.map(({ path }) => path));
  writeNotices(folder, metafile.inputs);
  copyTypes(folder);
  const { name, version, license, repository, dependencies: versions }: Description = readDescription();
  const description: Description & Record<string, unknown> = {
    name: `${name}-producer`,
    version,
    description: 'Adds jobs to the queue of unpackd, waits for them and cancels them',
    license,
    ...(repository === undefined ? {} : { repository }),
    engines: { node: '>=20' },
    type: 'commonjs',
    main: 'index.js',
    types: 'index.d.ts',
    exports: { '.': { types: './index.d.ts', default: './index.js' }, './schemas/*': './schemas/*' },
    dependencies: Object.fromEntries(Object.entries(versions).filter(([name]) => used.includes(name))),
  };
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(description, null, 2)}\n`);
  for (const path of ['schemas', 'LICENSE']) cpSync(join(root, path), join(folder, path), { recursive: true });
  cpSync(join(root, 'dev/producer-readme.md'), join(folder, 'README.md'));
}

/** Copies the types that the public API leads to. @throws Error with the type errors; if a type needs another package */
function copyTypes(folder: string): void {
  const types = mkdtempSync(join(tmpdir(), 'unpackd-types-'));
  try {
    const options = ['-p', join(root, 'tsconfig.build.json'), '--outDir', types];
    const { status, stdout } = spawnSync(join(root, 'node_modules/.bin/tsc'), options, { encoding: 'utf8' });
    if (status !== 0) throw new Error(stdout);
    const base = dirname(join(types, API));
    const pending = [join(types, `${API}.d.ts`)];
    for (const path of pending) {
      // TypeScript looks for a file of declarations by the name of the script
      const text = readFileSync(path, 'utf8').replace(/(from ['"]\.[^'"]*)\.ts(?=['"])/g, '$1.js');
      const copy = join(folder, relative(base, path));
      mkdirSync(dirname(copy), { recursive: true });
      writeFileSync(copy, text);
      for (const [, name = ''] of text.matchAll(/from ['"]([^'"]+)['"]/g)) {
        const target = join(dirname(path), name.replace(/\.js$/, '.d.ts'));
        if (name.startsWith('.') && !pending.includes(target)) pending.push(target);
        if (!name.startsWith('.') && !TYPED.includes(name))
          throw new Error(`the types of the API need ${name}: ${path}`);
      }
    }
  } finally {
    rmSync(types, { recursive: true, force: true });
  }
}

/** The folders with files that programs read: `src/grpc/definitions.ts` and `src/board/assets.ts` find them here. */
const READ_BY_PROGRAMS = ['src/grpc/protos', 'src/board/assets'];

function copyFiles(folder: string): void {
  for (const name of READ_BY_PROGRAMS) cpSync(join(root, name), join(folder, name), { recursive: true });
}

function dependencies(): string[] {
  return Object.keys(readDescription().dependencies);
}

/** The fields of package.json that are used here. */
interface Description {
  readonly name: string;
  readonly version: string;
  readonly license: string;
  readonly repository?: unknown;
  readonly dependencies: Readonly<Record<string, string>>;
}

function readDescription(): Description {
  return JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
}

const folder = resolve(root, process.argv[2] ?? 'dist');
if (process.argv[2] === undefined) rmSync(folder, { recursive: true, force: true });
await makePrograms(folder);
makeLauncher(folder);
copyFiles(folder);
await compileAhead(folder);
await makeProducer(join(folder, 'producer'));
