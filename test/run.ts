import { spawn } from 'node:child_process';
import { globSync, readFileSync, statSync } from 'node:fs';
import { constants } from 'node:os';
import { relative, sep } from 'node:path';
import { ensureRedisInstalled, findRedis } from '../src/demo/redis-server.ts';

/**
 * What `npm test` runs: Node's own test runner, once there is a Redis to test against.
 *
 *     node test/run.ts                       every test but e2e/ and conformance/
 *     node test/run.ts test/diff test/a.test.ts    these folders and files
 *     node test/run.ts test/diff --test-name-pattern=whiteout    options go on to Node
 *
 * For an ordinary user, those that need no root.
 */
const SEPARATE = ['e2e', 'conformance']; // they take minutes and need containerd and others: npm run test:e2e

const root = new URL('..', import.meta.url).pathname;
process.chdir(root);
const options = process.argv.slice(2).filter((argument) => argument.startsWith('-'));
const paths = process.argv.slice(2).filter((argument) => !argument.startsWith('-'));
const wanted = paths.length === 0 ? everyday() : paths.flatMap(testFiles);
if (wanted.length === 0) fail(`there are no tests in ${paths.join(', ')}`);
const files = process.getuid?.() === 0 ? wanted : wanted.filter((file) => !needsRoot(file));
const leftOut = wanted.length - files.length;
if (files.length === 0) fail(`${paths.join(', ')}: writes what only root may; sudo npm test ${paths.join(' ')}`);

try {
  if (process.env.REDIS_URL && (await findRedis()) === undefined) {
    fail('REDIS_URL is set, so none is installed, but the tests stop and start one of their own: install redis-server');
  }
  await ensureRedisInstalled();
} catch (error) {
  fail(error instanceof Error ? error.message : String(error));
}

// two at a time: the tests of the apply pool and of Redis measure waiting, which a crowded machine falsifies
const flags = ['--test', '--test-concurrency=2', '--test-timeout=120000', '--test-reporter=spec'];
const child = spawn(process.execPath, [...flags, ...options, ...files], { stdio: 'inherit' });
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal));
child.once('error', (error) => fail(`the test runner did not start: ${error.message}`));
child.once('exit', (code, signal) => {
  process.exitCode = signal === null ? (code ?? 1) : 128 + constants.signals[signal];
  if (leftOut === 0) return;
  console.log(
    `test: ${leftOut} of ${wanted.length} files were left out: they write devices, mounts and files of other owners, ` +
      'which only root may. All of them: sudo npm test',
  );
});

function everyday(): string[] {
  return globSync('test/**/*.test.ts')
    .filter((file) => !SEPARATE.includes(file.split(sep)[1] ?? ''))
    .sort();
}

/** Whether a file's tests are for root alone: it says so by an import, and all that run a whole worker do. */
function needsRoot(file: string): boolean {
  return SEPARATE.includes(file.split(sep)[1] ?? '') || readFileSync(file, 'utf8').includes('support/needs-root.ts');
}

function testFiles(path: string): string[] {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) fail(`${path}: no such file or folder`);
  if (!found.isDirectory()) return [path];
  return globSync(`${relative(root, path) || '.'}/**/*.test.ts`).sort();
}

function fail(sentence: string): never {
  process.stderr.write(`test: ${sentence}\n`);
  process.exit(2);
}
