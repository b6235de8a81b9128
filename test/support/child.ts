import { type ChildProcess, type SpawnOptions, type SpawnSyncReturns, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { after } from 'node:test';
import { unrefPipe } from '../../dev/local-programs.ts';
import { errnoOf } from '../../src/errno.ts';

/**
 * Starts a process in a test; no test uses another way. It leads a process group of its own. The group is killed
 * - when the scope of `await using` ends,
 * - after the last test of the file, also after a failure,
 * - when the test's own process ends in any way, SIGKILL included: see `Guard`.
 * A child that runs longer than its test keeps inherited pipes open, and `npm test` would wait for them.
 */
export function startChild(
  program: string,
  args: readonly string[],
  options: SpawnOptions = {},
): ChildProcess & AsyncDisposable {
  const child = spawn(program, args, { ...options, detached: true });
  const { pid } = child;
  if (pid !== undefined) {
    living.add(pid);
    Guard.tell(`group ${pid}`);
  }
  // a program that does not exist has no process; the caller that waits for its end gets the error
  child.on('error', () => {});
  return Object.assign(child, { [Symbol.asyncDispose]: () => endChild(child) });
}

/** Kills a child and its process group, and waits for the end of the child. A second call does nothing. */
export async function endChild(child: ChildProcess): Promise<void> {
  if (child.pid === undefined) return;
  killGroup(child.pid);
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  living.delete(child.pid);
  Guard.tell(`gone ${child.pid}`);
}

/** Milliseconds. Limit of a program that a test waits for, also on a busy machine. */
const RUN_LIMIT = 240_000;

/** Runs a program synchronously until it ends. The kernel kills it if the process of the test dies. */
export function runChild(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = process.env,
): SpawnSyncReturns<string> {
  const options = { env, encoding: 'utf8', timeout: RUN_LIMIT, killSignal: 'SIGKILL', maxBuffer: 1 << 30 } as const;
  return spawnSync('setpriv', ['--pdeathsig', 'KILL', program, ...args], options);
}

/**
 * Removes a directory, and unmounts everything below it, if the process of the test dies before it does so.
 * @param path absolute; only one that the test has made
 */
export function removeWithProcess(path: string): void {
  Guard.tell(`tree ${path}`);
}

/** The leaders of process groups that may still be running. */
const living = new Set<number>();

function killGroup(leader: number): void {
  try {
    process.kill(-leader, 'SIGKILL');
  } catch (error) {
    if (errnoOf(error) !== 'ESRCH') throw error;
  }
}

function killAll(): void {
  for (const leader of living) killGroup(leader);
  living.clear();
}

process.on('exit', killAll);
// only in the process of a test, because a hook elsewhere would start a test run
if (process.argv[1]?.endsWith('.test.ts')) after(killAll);

/** A shell that waits for the end of a pipe from this process. Then it kills the groups and removes the trees of its list. */
const Guard = {
  shell: undefined as ChildProcess | undefined,

  tell(line: string): void {
    if (Guard.shell === undefined) {
      // detached: a signal for this process's group must not end it first
      const shell = spawn('/bin/sh', ['-c', SCRIPT], { stdio: ['pipe', 'ignore', 'ignore'], detached: true, cwd: '/' });
      shell.on('error', () => {});
      shell.stdin.on('error', () => {});
      shell.unref();
      unrefPipe(shell.stdin);
      Guard.shell = shell;
    }
    Guard.shell.stdin?.write(`${line}\n`);
  },
};

const SCRIPT = `
groups= trees=
while read -r what which; do
  case $what in
    group) groups="$groups $which" ;;
    gone)
      kept=
      for group in $groups; do [ "$group" = "$which" ] || kept="$kept $group"; done
      groups=$kept ;;
    tree) trees="$trees $which" ;;
  esac
done
for group in $groups; do kill -KILL "-$group"; done
for tree in $trees; do
  [ -d "$tree" ] || continue
  while read -r _ _ _ _ place _; do
    case $place in "$tree"/*) umount --lazy "$place" ;; esac
  done </proc/self/mountinfo
  rm -rf --one-file-system "$tree"
done
`;
