import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Finished, finished, MAIN } from '../cli/run-cli.ts';
import { type TestImage, writeLayout } from '../support/layout.ts';

/** Nobody: a user who owns nothing on this machine. */
export const USER = 65534;

/** Only root can become another user. */
export const skip = process.getuid?.() === 0 ? false : 'becoming another user needs root';

/** A folder of that user's, with an image in a layout that it can read; gone when the scope ends. */
export async function usersFolder(image: TestImage): Promise<{ readonly path: string; [Symbol.dispose](): void }> {
  const path = mkdtempSync(join(tmpdir(), 'unpackd-rootless-'));
  await writeLayout(join(path, 'layout'), { app: image });
  chmodSync(path, 0o755);
  chownSync(path, USER, USER);
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

export function startAsUser(
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): ChildProcess {
  return spawn(command, args, {
    uid: USER,
    gid: USER,
    cwd: '/',
    env: { PATH: process.env.PATH ?? '', HOME: '/nonexistent', AWS_EC2_METADATA_DISABLED: 'true', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** A command as that user, to its end. */
export function asUser(command: string, args: readonly string[]): Promise<Finished> {
  return finished(startAsUser(command, args));
}

/** `unpackd ARGS` as that user. */
export function unpackd(...args: readonly string[]): Promise<Finished> {
  return asUser(process.execPath, [MAIN, ...args]);
}
