import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';

export interface WorkerProcess {
  readonly pid: number;
  /** Rejects when the process ends before it is stopped. */
  readonly failed: Promise<never>;
  /** Ends it as a supervisor would: SIGTERM, and SIGKILL when that takes too long. */
  stop(): Promise<void>;
}

/** Milliseconds between SIGTERM and SIGKILL. */
const PATIENCE = 3000;
const LINES_KEPT = 20;

/** Starts `workers/unpack` as a process of its own; its log is kept for the case that it ends by itself. */
export function startWorker(program: string, environment: Readonly<Record<string, string>>): WorkerProcess {
  const child = spawn(process.execPath, [program], {
    // not the group of the terminal: Ctrl-C is for this process, which then ends the worker in order
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...environment },
  });
  const log: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      log.push(...text.split('\n').filter((line) => line !== ''));
      log.splice(0, log.length - LINES_KEPT);
    });
  }
  const exit = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => resolve(`it ended with ${signal ?? code}`));
  });
  const killAtExit = () => child.kill('SIGKILL');
  process.on('exit', killAtExit);
  let stopping = false;
  const failed = exit.then((why) => {
    if (stopping) return new Promise<never>(() => {});
    throw new Error(`the worker process failed: ${why}\n${log.join('\n')}`);
  });
  failed.catch(() => {}); // whoever waits for a job races with it; nobody may be waiting
  return {
    pid: child.pid ?? -1,
    failed,
    async stop() {
      stopping = true;
      process.off('exit', killAtExit);
      if (hasEnded(child)) return;
      child.kill('SIGTERM');
      const patience = new AbortController();
      const late = sleep(PATIENCE, 'late', { signal: patience.signal }).catch(() => 'ended');
      if ((await Promise.race([exit, late])) === 'late') child.kill('SIGKILL');
      patience.abort();
      await exit;
    },
  };
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}
