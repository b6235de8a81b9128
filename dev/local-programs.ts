import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { accessSync, constants, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { delimiter, join } from 'node:path';
import { errnoOf } from '../src/errno.ts';

/** Programs of this machine that demo, tests and benchmark start: where they are, how they end, and ports for servers. */

/** The path of the first of these programs that is on the PATH. */
export function findProgram(...names: readonly string[]): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '');
  const paths = names.flatMap((name) => folders.map((folder) => join(folder, name)));
  return paths.find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** PATH, with the folders of `chroot` and `runc`, which only the PATH of a login of root has on Debian. */
export const PATH_OF_ROOT = `${process.env.PATH ?? ''}:/usr/sbin:/sbin`;

/** The lowest port that `freePort` returns. Below it are well-known ports, and the last one that `fetch` refuses (10080). */
const LOWEST_PORT = 20_000;

/**
 * A port of 127.0.0.1 on which nothing listens now. The kernel gives it to no outgoing connection, if that is possible: such a
 * connection could take the port before a server listens on it, or while the server restarts.
 */
export async function freePort(): Promise<number> {
  const range = await readFile('/proc/sys/net/ipv4/ip_local_port_range', 'utf8').catch(() => '');
  const firstOutgoing = Number.parseInt(range, 10);
  for (;;) {
    const server = createServer();
    try {
      const port = await listen(server, firstOutgoing > LOWEST_PORT ? randomInt(LOWEST_PORT, firstOutgoing) : 0);
      await new Promise((resolve) => server.close(resolve));
      return port;
    } catch (error) {
      if (errnoOf(error) !== 'EADDRINUSE') throw error;
    }
  }
}

/** Lets a server listen on 127.0.0.1. @param port default: a free one @returns the port */
export async function listen(server: Server, port = 0): Promise<number> {
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port; // a TCP server's address is never a string
}

/**
 * Ends a child, and with SIGKILL if it has not exited after `limit` milliseconds. Resolves when it has exited.
 * @param how the signal that ends it, or that it ends by itself at the end of its input
 */
export async function endProgram(child: ChildProcess, how: NodeJS.Signals | 'input', limit: number): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  child.ref();
  const late = setTimeout(() => child.kill('SIGKILL'), limit);
  const exit = once(child, 'exit');
  if (how === 'input') child.stdin?.end();
  else child.kill(how);
  await exit;
  clearTimeout(late);
}

/**
 * Starts a shell that kills a program when this process exits, also by SIGKILL. The shell reads from a pipe of this
 * process, and the kernel closes this pipe when the process exits. The shell has no child, so nothing is left when it is killed.
 */
export function guardOf(program: ChildProcess): ChildProcess {
  const script = 'read -r _; kill -9 "$1" 2>/dev/null';
  const guard = spawn('/bin/sh', ['-c', script, 'guard', String(program.pid)], {
    stdio: ['pipe', 'ignore', 'ignore'],
    // Ctrl-C in the terminal must not stop the shell before the program
    detached: true,
  });
  guard.on('error', () => {});
  guard.unref();
  unrefPipe(guard.stdin);
  return guard;
}

/** Lets this process exit while a pipe to a child is open. A pipe is a socket at run time; the type of a stream lacks `unref`. */
export function unrefPipe(stream: object | null): void {
  if (stream !== null && 'unref' in stream && typeof stream.unref === 'function') stream.unref();
}
