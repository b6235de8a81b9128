import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Config } from '../../src/config.ts';
import { endChild, startChild } from '../support/child.ts';
import { eventually } from './queue-fixture.ts';

const PROGRAM = fileURLToPath(new URL('worker-process.ts', import.meta.url));

export interface WorkerProcess extends AsyncDisposable {
  readonly exitCode: number | null;
  /** Its log lines so far. */
  readonly messages: readonly string[];
  kill(signal: NodeJS.Signals): void;
  /** Resolves with the exit code, or with `null` for one that was killed. */
  ended(): Promise<number | null>;
}

/** Starts worker-process.ts with these settings, and waits until it takes jobs. */
export async function startWorkerProcess(settings: Config, name = 'worker-process'): Promise<WorkerProcess> {
  const given = Object.entries(settings).filter(([, value]) => typeof value === 'string');
  const times = ['UNPACK_LOCK', 'UNPACK_GRACE', 'UNPACK_BACKOFF'] as const;
  const child = startChild(process.execPath, [PROGRAM], {
    env: {
      ...process.env,
      ...Object.fromEntries(given),
      ...Object.fromEntries(times.map((key) => [key, `${settings[key]}ms`])),
      UNPACK_JOBS: String(settings.UNPACK_JOBS),
      UNPACK_WORKER_NAME: name,
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exit = once(child, 'exit');
  const messages: string[] = [];
  if (child.stdout !== null) {
    createInterface(child.stdout).on('line', (line) => messages.push(String(JSON.parse(line).msg)));
  }
  try {
    await eventually('the worker process is ready', () => messages.includes('ready') || child.exitCode !== null);
    assert.ok(messages.includes('ready'), `the worker process has ended with ${child.exitCode}`);
  } catch (error) {
    await endChild(child);
    throw error;
  }
  return {
    get exitCode() {
      return child.exitCode;
    },
    messages,
    kill: (signal) => void child.kill(signal),
    async ended() {
      await exit;
      return child.exitCode;
    },
    [Symbol.asyncDispose]: () => endChild(child),
  };
}
