import {
  closeSync,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { chmod, mkdir } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import { errnoOf, systemMessage } from '../errno.ts';
import { tryLock } from '../system/files.ts';
import { makeDirectories } from '../system/make-directories.ts';

/** Listening on a Unix socket that no other user can reach, in place of a socket that a dead process has left. */

/** A socket cannot be listened on. `message` has the reason, and what to do. */
export class SocketError extends Error {
  override readonly name = 'SocketError';
  /** Another process of unpackd listens there. */
  readonly isTaken: boolean;

  constructor(message: string, { isTaken = false, ...options }: ErrorOptions & { readonly isTaken?: boolean } = {}) {
    super(message, options);
    this.isTaken = isTaken;
  }
}

/** A path of a socket that belongs to this process until it is released. */
export interface ListeningSocket {
  readonly path: string;
  /** Removes the socket. Call it after the server has ended. */
  release(): void;
}

/** The kernel's limit for the path of a socket, with the NUL at its end. */
const PATH_LIMIT = 108;

/**
 * Listens on `path` with mode 0600. A socket that a dead process has made here is replaced, and anything else there is refused.
 *
 * The socket is bound in a new directory with mode 0700 and renamed, so that no other user can connect before it has its
 * mode, without a change of the process's umask, which its other threads share. A lock on PATH.lock keeps a second process
 * from the same steps. The lock ends with the process. The file stays, and its content shows that a dead socket is ours.
 *
 * @param bind listens on the path that it gets
 * @throws SocketError
 */
export async function listenOn(path: string, bind: (path: string) => Promise<void>): Promise<ListeningSocket> {
  if (Buffer.byteLength(newPath(path)) >= PATH_LIMIT) {
    throw new SocketError(`${path}: the path of a socket can't be so long: choose a shorter one`);
  }
  try {
    // 0711: the socket has its own mode, and other programs may have theirs beside it
    await makeDirectories(dirname(path), 0o711);
    return await listenLocked(path, bind);
  } catch (error) {
    if (error instanceof SocketError) throw error;
    throw new SocketError(`can't listen on ${path}: ${reason(error)}; choose another path, or run as root`, {
      cause: error,
    });
  }
}

async function listenLocked(path: string, bind: (path: string) => Promise<void>): Promise<ListeningSocket> {
  const lockFile = `${path}.lock`;
  const lock = openSync(lockFile, 'a+', 0o600);
  try {
    if (!tryLock(lock)) throw taken(path, readFileSync(lockFile, 'utf8').trim());
    await refuseForeign(path, fstatSync(lock).size > 0);
    writeFileSync(lockFile, `${process.pid}\n`);
    const inode = await bindAndRename(path, bind);
    return {
      path,
      release: () => {
        // somebody may have removed it, and have put another one there
        if (lstatSync(path, { throwIfNoEntry: false })?.ino === inode) unlinkSync(path);
        closeSync(lock);
      },
    };
  } catch (error) {
    closeSync(lock);
    throw error;
  }
}

/**
 * @param wasOurs whether a process has listened there by `listenOn`
 * @throws SocketError if a process listens there, if it is no socket, or if another program has made it
 */
async function refuseForeign(path: string, wasOurs: boolean): Promise<void> {
  const status = lstatSync(path, { throwIfNoEntry: false });
  if (status === undefined) return;
  if (!status.isSocket()) throw new SocketError(`${path} is there already and is no socket: choose another path`);
  const errno = await new Promise<string | undefined>((resolve) => {
    const socket = connect(path, () => {
      socket.destroy();
      resolve(undefined);
    });
    socket.once('error', (error) => resolve(errnoOf(error) ?? 'UNKNOWN'));
  });
  if (errno === 'ENOENT' || (errno === 'ECONNREFUSED' && wasOurs)) return;
  if (errno === 'ECONNREFUSED') {
    throw new SocketError(
      `${path} is a socket of another program, which does not listen now: choose another path, or remove it`,
    );
  }
  throw new SocketError(`another program listens on ${path} already: stop it, or choose another path`);
}

/** @returns the inode of the socket */
async function bindAndRename(path: string, bind: (path: string) => Promise<void>): Promise<number> {
  const made = newPath(path);
  const directory = dirname(made);
  removeLeft(made);
  await mkdir(directory, { mode: 0o700 });
  try {
    await bind(made);
    await chmod(made, 0o600);
    const { ino } = lstatSync(made);
    renameSync(made, path);
    return ino;
  } finally {
    removeLeft(made);
  }
}

/** Removes the directory of a new socket, as a process that died here has left it. @throws SocketError if it is none */
function removeLeft(made: string): void {
  const directory = dirname(made);
  const status = lstatSync(directory, { throwIfNoEntry: false });
  if (status === undefined) return;
  const names = status.isDirectory() ? readdirSync(directory) : undefined;
  const socket = names && lstatSync(made, { throwIfNoEntry: false });
  if (names === undefined || names.length > (socket?.isSocket() ? 1 : 0)) {
    throw new SocketError(`${directory} is there already and is not of unpackd: move it away, or choose another path`);
  }
  if (socket !== undefined) unlinkSync(made);
  rmdirSync(directory);
}

/** Where a socket is bound before it gets its mode and its name. */
const newPath = (path: string): string => join(`${path}.new`, 's');

function taken(path: string, pid: string): SocketError {
  // the file is empty until the process that has the lock writes its number
  const who = pid === '' ? 'another process' : `process ${pid}`;
  const message = `${who} listens on ${path} already: stop it, or choose another path`;
  return new SocketError(message, { isTaken: true });
}

function reason(error: unknown): string {
  return error instanceof Error ? systemMessage(error) : String(error);
}
