import type { ChildProcess } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { startChild } from '../support/child.ts';

export const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));

export interface Finished {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: string;
}

/** The minimal environment, so that the tests do not depend on the user's. */
const BARE = { PATH: process.env.PATH ?? '', HOME: process.env.HOME ?? '/', AWS_EC2_METADATA_DISABLED: 'true' };

/** Starts `unpackd ARGS` as a process. */
export function startCli(args: readonly string[], { env = {}, stdin }: RunOptions = {}): ChildProcess {
  const child = startChild(process.execPath, [MAIN, ...args], {
    env: { ...BARE, ...env },
    stdio: [stdin === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
  });
  if (stdin !== undefined) child.stdin?.end(stdin);
  return child;
}

/** Runs `unpackd ARGS` to its end. */
export async function runCli(args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  return finished(startCli(args, options));
}

export async function finished(child: ChildProcess): Promise<Finished> {
  const [stdout, stderr, end] = await Promise.all([
    child.stdout === null ? '' : text(child.stdout),
    child.stderr === null ? '' : text(child.stderr),
    new Promise<Pick<Finished, 'status' | 'signal'>>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (status, signal) => resolve({ status, signal }));
    }),
  ]);
  return { ...end, stdout, stderr };
}
