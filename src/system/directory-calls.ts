import { type Dirent, opendirSync } from 'node:fs';
import { readdir, rmdir, unlink } from 'node:fs/promises';
import { errnoOf } from '../errno.ts';
import { cString, descriptorPath, rmdirAt, unlinkAt } from './files.ts';

/**
 * Listing and deleting names in open directories, for remove-tree.ts: either on the calling thread, or on the threads of
 * Node.
 */

/**
 * Maximum number of files that are deleted at the same time. More would fill Node's thread pool, which decompression
 * uses, too.
 */
const PARALLEL = 8;
/** Number of names that one call reads. Such a call takes some milliseconds. */
const NAMES_AT_ONCE = 1024;

/** A name in a directory, as a C string. */
export interface Name {
  readonly name: Buffer;
  /** From the directory listing, so it is possibly out of date. */
  readonly isDirectory: boolean;
}

export type SystemError = NodeJS.ErrnoException;

/** The calls of a tree removal that can take long. The implementation decides on which thread they run. */
export interface Calls {
  list(directory: number): Name[] | Promise<Name[]>;
  /** @returns the error of each name; `undefined` on success */
  unlink(directory: number, names: readonly Buffer[]): Failures | Promise<Failures>;
  rmdir(parent: number, name: Buffer): Failures | Promise<Failures>;
}

type Failures = readonly (SystemError | undefined)[];

/** All names in an open directory. @param step is called every 1,024 names, and can throw to stop */
export function namesIn(directory: number, step?: () => void): Name[] {
  const path = descriptorPath(directory).subarray(0, -1);
  // `as`: node:fs accepts `buffer` here, but its types do not
  const open = opendirSync(path, { encoding: 'buffer' as BufferEncoding, bufferSize: NAMES_AT_ONCE });
  const names: Name[] = [];
  try {
    for (let entry = open.readSync(); entry !== null; entry = open.readSync()) {
      if (names.length % NAMES_AT_ONCE === 0) step?.();
      names.push(nameOf(entry));
    }
  } finally {
    open.closeSync();
  }
  return names;
}

function nameOf(entry: { readonly name: string | Buffer; isDirectory(): boolean }): Name {
  return { name: cString(entry.name), isDirectory: entry.isDirectory() };
}

/** Decides when parts of a long removal run. */
export interface Pace {
  run<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T>;
}

/** Calls on Node's threads. Paths through /proc make them relative to an open directory. */
export function callsOnThreads(signal: AbortSignal | undefined, pace: Pace = AT_ONCE): Calls {
  const at = (directory: number, name: Buffer) =>
    Buffer.concat([descriptorPath(directory).subarray(0, -1), Buffer.from('/'), name.subarray(0, -1)]);
  const failure = (call: Promise<void>): Promise<SystemError | undefined> => call.then(() => undefined, asSystemError);
  return {
    async list(directory) {
      signal?.throwIfAborted();
      const entries: Dirent<Buffer>[] = await readdir(descriptorPath(directory).subarray(0, -1), {
        encoding: 'buffer',
        withFileTypes: true,
      }).catch((error: unknown) => {
        if (isCode(error, 'ENOENT')) return []; // it was removed
        throw error;
      });
      return entries.map(nameOf);
    },
    async unlink(directory, names) {
      const failures: (SystemError | undefined)[] = [];
      for (let start = 0; start < names.length; start += PARALLEL) {
        signal?.throwIfAborted();
        const some = names.slice(start, start + PARALLEL);
        const unlinkAll = () => Promise.all(some.map((name) => failure(unlink(at(directory, name)))));
        failures.push(...(await pace.run(unlinkAll, signal)));
      }
      return failures;
    },
    async rmdir(parent, name) {
      signal?.throwIfAborted();
      return [await pace.run(() => failure(rmdir(at(parent, name))), signal)];
    },
  };
}

const AT_ONCE: Pace = { run: (work) => work() };

/** Synchronous calls on this thread. @param step is called before each call, and can throw to stop */
export function callsHere(step?: () => void): Calls {
  const failure = (call: () => void): SystemError | undefined => {
    step?.();
    try {
      call();
      return undefined;
    } catch (error) {
      return asSystemError(error);
    }
  };
  return {
    list(directory) {
      try {
        return namesIn(directory, step);
      } catch (error) {
        if (isCode(error, 'ENOENT')) return []; // it was removed
        throw error;
      }
    },
    unlink: (directory, names) => names.map((name) => failure(() => unlinkAt(directory, name))),
    rmdir: (parent, name) => [failure(() => rmdirAt(parent, name))],
  };
}

export function isCode(error: unknown, ...codes: readonly string[]): boolean {
  return codes.includes(errnoOf(error) ?? '');
}

/** @throws any error that is no system error: an abort, or an error of `step` */
function asSystemError(error: unknown): SystemError {
  if (errnoOf(error) === undefined || !(error instanceof Error)) throw error;
  return error;
}
