import { spawnSync } from 'node:child_process';
import { globSync, readFileSync, statSync } from 'node:fs';
import { constants } from 'node:os';
import { relative, sep } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { ensureRedisInstalled, findRedis } from '../dev/redis-server.ts';
import { endChild, startChild } from './support/child.ts';

/**
 * `npm test`: runs each test file in a process of its own, with Node's test runner. It installs Redis first if needed.
 *
 *     node test/run.ts                       all tests except e2e/ and conformance/
 *     node test/run.ts test/diff test/a.test.ts    these folders and files
 *     node test/run.ts test/diff --test-name-pattern=whiteout    other options are passed to Node
 *     node test/run.ts --limit=60 --file-limit=20    minutes for all files, and for one file
 *
 * Without root, it leaves out the files that need root. A file that exceeds its limit is killed with all processes that it
 * has started, and reported.
 */
const SEPARATE = ['e2e', 'conformance']; // they take minutes and need containerd and others: npm run test:e2e
/** Two at a time: some need a core for themselves and a gigabyte of memory. */
const AT_ONCE = 2;
/** Minutes. They end a test that hangs. A run takes a tenth of them, but the machine may be busy. */
const DEFAULT_LIMITS = { file: 15, run: 60 };
/** The part of a file's limit that one test may take, so that the report names the test that hangs. */
const TEST_PART = 0.9;
/** Milliseconds. The output of a file must end so soon after its process. */
const OUTPUT_LIMIT = 60_000;
const MINUTE = 60_000;
const COUNTS = ['tests', 'suites', 'pass', 'fail', 'cancelled', 'skipped', 'todo'] as const;

const root = new URL('..', import.meta.url).pathname;
process.chdir(root);
const given = process.argv.slice(2);
const limits = { file: minutes('--file-limit', DEFAULT_LIMITS.file), run: minutes('--limit', DEFAULT_LIMITS.run) };
const options = given.filter((argument) => argument.startsWith('-') && !/^--(file-)?limit=/.test(argument));
const paths = given.filter((argument) => !argument.startsWith('-'));
const wanted = paths.length === 0 ? everyday() : paths.flatMap(testFiles);
if (wanted.length === 0) fail(`there are no tests in ${paths.join(', ')}`);
const files = process.getuid?.() === 0 ? wanted : wanted.filter((file) => !needsRoot(file));
if (files.length === 0) fail(`${paths.join(', ')}: writes what only root may; sudo npm test ${paths.join(' ')}`);

try {
  if (process.env.REDIS_URL && findRedis() === undefined) {
    fail('REDIS_URL is set, so none is installed, but the tests stop and start one of their own: install redis-server');
  }
  await ensureRedisInstalled();
} catch (error) {
  fail(error instanceof Error ? error.message : String(error));
}

/** A test file that is running. */
interface Running {
  readonly file: string;
  readonly began: number;
  readonly end: () => Promise<void>;
}

const began = performance.now();
const totals = new Map<string, number>();
const failures: string[] = [];
const running = new Set<Running>();
/** Why the run stops early, and its exit status. */
let stopped: { readonly sentence: string; readonly status: number } | undefined;

const whole = setTimeout(() => {
  stop(`the run has taken ${limits.run} minutes, which is its limit (--limit=MINUTES); it was at ${atWork()}`, 1);
}, limits.run * MINUTE);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => stop(`ended by ${signal}`, 128 + constants.signals[signal]));
}

/**
 * Begins the command of each file, if namespaces can be made. A namespace that one test makes has a copy of all mounts, and keeps
 * them when another test unmounts its own: their snapshots could not be removed then. With a namespace for each file, no test
 * copies the mounts of another file.
 */
const ownNamespace = mountNamespace();

const left = [...files];
const next = async (): Promise<void> => {
  for (let file = left.shift(); file !== undefined && stopped === undefined; file = left.shift()) await runFile(file);
};
await Promise.all(Array.from({ length: AT_ONCE }, next));
clearTimeout(whole);
summary();
process.exit();

function mountNamespace(): readonly string[] {
  const command = ['unshare', '--mount', '--propagation', 'private'] as const;
  const [program, ...args] = command;
  return spawnSync(program, [...args, 'true'], { stdio: 'ignore' }).status === 0 ? command : [];
}

async function runFile(file: string): Promise<void> {
  const flags = ['--test-reporter=spec', `--test-timeout=${Math.ceil(limits.file * MINUTE * TEST_PART)}`];
  // with this variable a file writes the protocol of `node --test` instead of text
  const { NODE_TEST_CONTEXT: _, ...env } = process.env;
  if (process.stdout.isTTY) env.FORCE_COLOR ??= '1';
  const [program = '', ...before] = [...ownNamespace, process.execPath];
  const args = [...before, ...flags, ...options, file];
  const child = startChild(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const me: Running = { file, began: performance.now(), end: () => endChild(child) };
  running.add(me);
  let output = '';
  const closed = Promise.all([child.stdout, child.stderr].map((stream) => ended(stream, (text) => (output += text))));
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    void me.end();
  }, limits.file * MINUTE);
  const exit = await new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => resolve(signal ?? String(code)));
  });
  clearTimeout(timer);
  // processes that it has left running would keep its output open
  await me.end();
  const isOpen = await Promise.race([closed.then(() => false), after(OUTPUT_LIMIT)]);
  running.delete(me);
  const why = isLate
    ? `takes longer than ${limits.file} minutes (--file-limit=MINUTES): it hangs, and was ended; its output is above`
    : isOpen
      ? 'has left a process behind that keeps its output open'
      : undefined;
  report(me, output, exit, why);
}

/** Prints the output of a file without its counts, which are added to the total. */
function report({ file, began }: Running, output: string, exit: string, why: string | undefined): void {
  const lines = output.split('\n');
  const isCount = (line: string): boolean => /^ℹ (\w+) [\d.]+$/.test(stripVTControlCharacters(line));
  const first = lines.findLastIndex((line) => /^ℹ tests \d+$/.test(stripVTControlCharacters(line)));
  const body = first < 0 ? lines : lines.slice(0, first);
  const rest = first < 0 ? [] : lines.slice(first).filter((line) => !isCount(line));
  process.stdout.write(
    `${file} (${((performance.now() - began) / 1000).toFixed(1)} s)\n${body.join('\n').trimEnd()}\n`,
  );
  if (first >= 0) {
    for (const line of lines.slice(first)) {
      const [, what = '', count = ''] = /^ℹ (\w+) (\d+)$/.exec(stripVTControlCharacters(line)) ?? [];
      if (COUNTS.some((known) => known === what)) totals.set(what, (totals.get(what) ?? 0) + Number(count));
    }
  }
  if (stopped !== undefined || (exit === '0' && why === undefined)) return;
  const told = rest.join('\n').trim();
  failures.push(
    `${file}: ${why ?? (told === '' ? `ended with ${exit} before its tests had; its output is above` : told)}`,
  );
}

function stop(sentence: string, status: number): void {
  if (stopped !== undefined) return;
  stopped = { sentence, status };
  for (const each of running) void each.end();
}

function atWork(): string {
  return [...running]
    .map((each) => `${each.file} (for ${((performance.now() - each.began) / MINUTE).toFixed(1)} min)`)
    .join(' and ');
}

function summary(): void {
  const line = (text: string): boolean => process.stdout.write(`${text}\n`);
  for (const what of COUNTS) line(`ℹ ${what} ${totals.get(what) ?? 0}`);
  line(`ℹ duration_ms ${(performance.now() - began).toFixed(0)}`);
  if (failures.length > 0)
    line(`\n✖ ${failures.length} of ${files.length} files have failed:\n\n${failures.join('\n\n')}`);
  const leftOut = wanted.length - files.length;
  if (leftOut > 0) {
    line(
      `test: ${leftOut} of ${wanted.length} files were left out: they write devices, mounts and files of other owners, ` +
        'which only root may. All of them: sudo npm test',
    );
  }
  if (stopped !== undefined) line(`test: ${stopped.sentence}; they and all that they had started were ended`);
  process.exitCode = stopped?.status ?? (failures.length > 0 ? 1 : 0);
}

function ended(stream: NodeJS.ReadableStream | null, take: (text: string) => void): Promise<void> {
  if (stream === null) return Promise.resolve();
  stream.setEncoding('utf8');
  stream.on('data', take);
  return new Promise((resolve) => stream.once('close', resolve));
}

function after(milliseconds: number): Promise<true> {
  return new Promise((resolve) => setTimeout(() => resolve(true), milliseconds).unref());
}

function minutes(name: string, fallback: number): number {
  const text = given.find((argument) => argument.startsWith(`${name}=`))?.slice(name.length + 1);
  const number = text === undefined ? fallback : Number(text);
  if (!(number > 0 && number <= 24 * 60)) fail(`${name}=${text}: minutes, more than 0 and at most ${24 * 60}`);
  return number;
}

function everyday(): string[] {
  return globSync('test/**/*.test.ts')
    .filter((file) => !SEPARATE.includes(file.split(sep)[1] ?? ''))
    .sort();
}

/** Whether a file needs root: it imports needs-root.ts, or it is in a folder whose tests start workers. */
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
