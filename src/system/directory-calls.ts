import { type Dirent, opendirSync } from 'node:fs';
import { readdir, rmdir, unlink } from 'node:fs/promises';
import { errnoOf } from '../errno.ts';
import { cString, descriptorPath, rmdirAt, unlinkAt } from './files.ts';

/** Files at once: more would fill the thread pool that decompression shares. */
const PARALLEL = 8;
/** Names that are read of a directory at once: some milliseconds. */
const NAMES_AT_ONCE = 1024;

/** A name in a directory, as a C string. */
export interface Name {
  readonly name: Buffer;
  /** As the directory tells it: it may be out of date. */
  readonly isDirectory: boolean;
}

export type SystemError = NodeJS.ErrnoException;

/** The calls that may take long, on this thread or on another one. */
export interface Calls {
  list(directory: number): Name[] | Promise<Name[]>;
  /** @returns for each name what went wrong, if anything */
  unlink(directory: number, names: readonly Buffer[]): Failures | Promise<Failures>;
  rmdir(parent: number, name: Buffer): Failures | Promise<Failures>;
}

type Failures = readonly (SystemError | undefined)[];

/** The names in an open directory; all are read before the first is given out. @param step is called now and then */
export function namesIn(directory: number, step?: () => void): Name[] {
  const path = descriptorPath(directory).subarray(0, -1);
  // node:fs takes `buffer` here as everywhere, its types don't
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

/** Node's own calls run on its threads; by way of /proc they too are relative to an open directory. */
export function callsOnThreads(signal: AbortSignal | undefined): Calls {
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
        if (isCode(error, 'ENOENT')) return []; // removed meanwhile
        throw error;
      });
      return entries.map(nameOf);
    },
    async unlink(directory, names) {
      const failures: (SystemError | undefined)[] = [];
      for (let start = 0; start < names.length; start += PARALLEL) {
        signal?.throwIfAborted();
        const some = names.slice(start, start + PARALLEL);
        failures.push(...(await Promise.all(some.map((name) => failure(unlink(at(directory, name)))))));
      }
      return failures;
    },
    async rmdir(parent, name) {
      signal?.throwIfAborted();
      return [await failure(rmdir(at(parent, name)))];
    },
  };
}

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
        if (isCode(error, 'ENOENT')) return []; // removed meanwhile
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

/** @throws what is no system error: an abort, or a step that gives up */
function asSystemError(error: unknown): SystemError {
  if (errnoOf(error) === undefined || !(error instanceof Error)) throw error;
  return error;
}
