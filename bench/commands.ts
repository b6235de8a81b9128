import { spawn, spawnSync } from 'node:child_process';
import { findProgram } from '../dev/local-programs.ts';

export interface CommandOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
}

const OUTPUT_KEPT = 1 << 20;

/** Runs a program until it ends. @returns its stdout @throws Error with the end of its stderr */
export function run(program: string, args: readonly string[], options: CommandOptions = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    let out = '';
    let err = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out = (out + text).slice(-OUTPUT_KEPT);
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      err = (err + text).slice(-2000);
    });
    child.once('error', (error) => reject(new Error(`${program} could not be started: ${error.message}`)));
    child.once('close', (code, signal) => {
      if (code === 0) resolve(out);
      else reject(new Error(`${program} ended with ${signal ?? code}: ${(err || out).trim().slice(-500)}`));
    });
  });
}

/** Runs a bash script. It fails if any command, or any part of a pipe, fails. */
export function bash(script: string, options: CommandOptions = {}): Promise<string> {
  return run('bash', ['-euo', 'pipefail', '-c', script], options);
}

/** The first line of output of `program --version`, or of another flag. `undefined` if it is not on the PATH. */
export function versionOf(program: string, flag = '--version'): string | undefined {
  const { error, stdout, stderr } = spawnSync(program, [flag], { encoding: 'utf8' });
  if (error !== undefined) return undefined;
  return `${stdout}${stderr}`.trim().split('\n')[0] ?? '';
}

export function onPath(program: string): boolean {
  return findProgram(program) !== undefined;
}

/** `text` as one word of a shell command. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
