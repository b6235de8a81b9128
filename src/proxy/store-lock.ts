import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { SocketError } from '../grpc/socket.ts';
import { tryLock, tryLockShared } from '../system/files.ts';

/**
 * The lock of the process that serves a store to containerd. A store is for one containerd, because each one removes what its
 * own records do not have. The lock is on ROOT/serving.lock, which has the process and its socket, and ends with the process.
 */

interface Server {
  readonly pid: number;
  readonly socket: string;
}

const lockFile = (root: string): string => join(root, 'serving.lock');

/** @throws SocketError if another process serves the store */
export function lockForServing(root: string, socket: string): Disposable {
  let file: number;
  try {
    file = openSync(lockFile(root), 'a+', 0o600);
  } catch {
    // on a full or read-only disk, containers are worth more than the lock
    return { [Symbol.dispose]: () => {} };
  }
  try {
    if (!tryLock(file)) throw taken(root, socket);
    try {
      ftruncateSync(file);
      writeSync(file, JSON.stringify({ pid: process.pid, socket }));
    } catch {
      // only messages need the content
    }
    return { [Symbol.dispose]: () => closeSync(file) };
  } catch (error) {
    closeSync(file);
    throw error;
  }
}

/** `process 123 on /run/unpackd/snapshotter.sock`, of the process that serves the store; `undefined` if there is none. */
export function whoServes(root: string): string | undefined {
  let file: number;
  try {
    file = openSync(lockFile(root), 'r');
  } catch {
    return undefined;
  }
  try {
    if (tryLockShared(file)) return undefined;
    const server = readServer(root);
    return server === undefined ? 'another process' : `process ${server.pid} on ${server.socket}`;
  } finally {
    closeSync(file);
  }
}

function taken(root: string, socket: string): SocketError {
  const server = readServer(root);
  const who = server === undefined ? 'another process' : `process ${server.pid}`;
  const message =
    server?.socket === socket
      ? `${who} listens on ${socket} already: stop it, or choose another path`
      : `${who} serves the store ${root} already${server === undefined ? '' : ` on ${server.socket}`}: use that socket, or another store, because a store is for one containerd`;
  return new SocketError(message, { isTaken: true });
}

function readServer(root: string): Server | undefined {
  try {
    const { pid, socket }: Partial<Record<keyof Server, unknown>> = JSON.parse(readFileSync(lockFile(root), 'utf8'));
    return typeof pid === 'number' && typeof socket === 'string' ? { pid, socket } : undefined;
  } catch {
    return undefined; // it is being written
  }
}
