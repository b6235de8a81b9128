import { spawn } from 'node:child_process';
import { endProgram, guardOf } from './local-programs.ts';

/** A worker in a separate process, for the demo and the benchmark. */
export interface WorkerProcess {
  readonly pid: number;
  /** Rejects if the process exits before `stop` is called. */
  readonly failed: Promise<never>;
  /** Sends SIGTERM, and SIGKILL if the process has not exited after 3 s. */
  stop(): Promise<void>;
}

/** Milliseconds between SIGTERM and SIGKILL. */
const STOP_TIMEOUT = 3000;
const LINES_KEPT = 20;

/**
 * Starts a worker program with these settings. The last lines of its log are in the error of `failed`. It ends with this process,
 * also after SIGKILL.
 */
export function startWorker(program: string, environment: Readonly<Record<string, string>>): WorkerProcess {
  const child = spawn(process.execPath, [program], {
    // Ctrl-C in the terminal must reach this process only, which then stops the worker
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...environment },
  });
  const guard = guardOf(child);
  const log: string[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      log.push(...text.split('\n').filter((line) => line !== ''));
      log.splice(0, log.length - LINES_KEPT);
    });
  }
  const exit = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => resolve(`it exited with ${signal ?? code}`));
  });
  child.once('exit', () => guard.kill('SIGKILL')); // the ID of the process may be given to another one
  const killAtExit = () => child.kill('SIGKILL');
  process.on('exit', killAtExit);
  let stopping = false;
  const failed = exit.then((why) => {
    if (stopping) return new Promise<never>(() => {});
    throw new Error(`the worker process failed: ${why}\n${log.join('\n')}`);
  });
  failed.catch(() => {}); // not an unhandled rejection if no caller waits for it
  return {
    pid: child.pid ?? -1,
    failed,
    async stop() {
      stopping = true;
      process.off('exit', killAtExit);
      await endProgram(child, 'SIGTERM', STOP_TIMEOUT);
      await endProgram(guard, 'SIGKILL', STOP_TIMEOUT);
    },
  };
}
