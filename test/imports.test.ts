import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { test } from 'node:test';

/**
 * Folders from the top down: a file imports from its own folder and from those of lower lines only, so that nothing
 * below knows that a queue or a command line exists. What is on one line must not import from another of that line.
 */
const LAYERS: readonly (readonly string[])[] = [
  ['dev'],
  ['src/cli'],
  ['workers', 'src/doctor'],
  ['src/index.ts', 'src/board'],
  ['src/charts', 'src/metrics', 'src/tracing'],
  ['src/queue'],
  ['src/image'],
  ['src/collector', 'src/proxy'],
  ['src/rootfs', 'src/inspect'],
  ['src/erofs'],
  ['src/diff'],
  ['src/snapshots'],
  ['src/grpc'],
  ['src/push'],
  ['src/source'],
  ['src/http'],
  ['src/archive'],
  ['src/system'],
  ['src/oci'],
  ['src/errors.ts'],
  ['src/errno.ts', 'src/lru-cache.ts', 'src/package.ts', 'src/printable.ts', 'src/secrets.ts', 'src/units.ts'],
];
/** The settings are read at the edge only, and take their types from what they configure. */
const EDGE = [
  'src/config.ts',
  'src/setting-kinds.ts',
  'src/redis-address.ts',
  'src/redis-settings.ts',
  'src/s3-endpoints.ts',
  'src/s3-profile.ts',
  'src/s3-settings.ts',
];

const root = join(import.meta.dirname, '..');
const files = globSync(['src/**/*.ts', 'workers/**/*.ts', 'dev/**/*.ts'], { cwd: root }).sort();
const imports = new Map(files.map((file) => [file, importsOf(file)]));

test('no file imports itself through others', () => {
  const cycles: string[] = [];
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]) => {
    if (path.includes(file)) cycles.push([...path.slice(path.indexOf(file)), file].join(' → '));
    if (path.includes(file) || done.has(file)) return;
    for (const next of imports.get(file) ?? []) visit(next, [...path, file]);
    done.add(file);
  };
  for (const file of files) visit(file, []);
  assert.deepEqual(cycles, []);
});

test('imports point downwards only', () => {
  const upwards: string[] = [];
  for (const [file, targets] of imports) {
    for (const target of targets) if (!allowed(file, target)) upwards.push(`${file} → ${target}`);
  }
  assert.deepEqual(upwards, []);
});

test('every import names a file that exists', () => {
  const missing = [...imports].flatMap(([file, targets]) =>
    targets.filter((target) => !imports.has(target)).map((target) => `${file} → ${target}`),
  );
  assert.deepEqual(missing, []);
});

function allowed(file: string, target: string): boolean {
  if (EDGE.includes(file)) return true;
  if (EDGE.includes(target)) return layerOf(file) <= layerOf('src/queue/');
  if (folderOf(file) === folderOf(target)) return true;
  return layerOf(file) < layerOf(target);
}

function folderOf(file: string): string {
  const name = LAYERS.flat().find((entry) => file === entry || file.startsWith(`${entry}/`));
  assert.ok(name !== undefined, `${file} is in a folder that test/imports.test.ts does not know: say where it belongs`);
  return name;
}

function layerOf(file: string): number {
  return LAYERS.findIndex((line) => line.includes(folderOf(file)));
}

/** The project's own files that a file imports, statically or not, types too. */
function importsOf(file: string): string[] {
  const text = readFileSync(join(root, file), 'utf8');
  const matches = text.matchAll(/(?:\bfrom|^import|\bimport\()\s*'(\.{1,2}\/[^']+)'/gm);
  return [...new Set([...matches].map(([, path = '']) => normalize(join(dirname(file), path))))];
}

test('tests start processes by test/support/child.ts only, so that none outlives its test', () => {
  // the one way itself, and a test of it that needs a process which is not in its care
  const known = ['test/support/child.ts', 'test/runner/family.ts'];
  const starting = globSync('test/**/*.ts', { cwd: root }).filter((file) => {
    const [, names = ''] = /import (?:type )?\{([^}]*)\} from 'node:child_process'/.exec(read(file)) ?? [];
    return names.split(',').some((name) => /^\s*(spawn|fork|exec|execFile)\s*$/.test(name));
  });
  assert.deepEqual(starting.sort(), known.sort(), 'start processes by startChild of test/support/child.ts');
});

function read(file: string): string {
  return readFileSync(join(root, file), 'utf8');
}
