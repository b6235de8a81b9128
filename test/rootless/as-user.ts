import { type ChildProcess, type SpawnOptions, spawnSync } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Finished, finished, MAIN } from '../cli/run-cli.ts';
import { startChild } from '../support/child.ts';
import { type TestImage, writeLayout } from '../support/layout.ts';

/** The user ID of nobody, who owns no files on this machine. */
export const USER = 65534;

/** Only root can become another user. */
export const skip = process.getuid?.() === 0 ? false : 'becoming another user needs root';

const ROOT = new URL('../..', import.meta.url).pathname;

/**
 * The directory where that user finds the project. A clone in root's home is not accessible, so each command gets a bind
 * mount of it, which ends with the command.
 */
const project = skip === false && isClosed() ? openFolder() : ROOT;

function isClosed(): boolean {
  const { error } = spawnSync(process.execPath, ['--version'], { uid: USER, gid: USER, cwd: '/', stdio: 'ignore' });
  return error !== undefined;
}

function openFolder(): string {
  const path = mkdtempSync(join(tmpdir(), 'unpackd-project-'));
  chmodSync(path, 0o755);
  process.once('exit', () => rmdirSync(path));
  return `${path}/`;
}

const inProject = (path: string): string => (path.startsWith(ROOT) ? project + path.slice(ROOT.length) : path);

/** The paths of Node and of the program for that user. */
export const [NODE, PROGRAM] = [inProject(process.execPath), inProject(MAIN)];

/** A directory of that user with an image layout. It is removed at the end of the scope. */
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
  const options: SpawnOptions = {
    cwd: '/',
    env: { PATH: process.env.PATH ?? '', HOME: '/nonexistent', AWS_EC2_METADATA_DISABLED: 'true', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  };
  if (project === ROOT) return startChild(command, args, { ...options, uid: USER, gid: USER });
  const become = `exec setpriv --reuid=${USER} --regid=${USER} --clear-groups "$@"`;
  const script = `mount --bind '${ROOT}' '${project}' && ${become}`;
  return startChild('unshare', ['--mount', 'sh', '-c', script, 'sh', command, ...args], options);
}

/** Runs a command as that user. */
export function asUser(command: string, args: readonly string[]): Promise<Finished> {
  return finished(startAsUser(command, args));
}

/** `unpackd ARGS` as that user. */
export function unpackd(...args: readonly string[]): Promise<Finished> {
  return asUser(NODE, [PROGRAM, ...args]);
}
