import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { MAKE_ROOM } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import { spaceOf } from '../system/space.ts';

/** How long a call waits for other processes before it gives up, in milliseconds. */
export const LOCK_TIMEOUT = 10_000;
/**
 * How long SQLite itself may wait, in milliseconds. It waits inside the call and so stops the event loop; the long wait
 * is done between calls.
 */
const BUSY_TIMEOUT = 5;
/** The pause between two tries is random up to this, in milliseconds, so that processes don't step in time. */
const PAUSE = 20;

/** A file, and how long to wait for those who lock it, in milliseconds. */
export interface Patience {
  readonly path: string;
  readonly limit: number;
}

type Statements<Name extends string> = { readonly [name in Name]: StatementSync };
/** Registers what is to be undone when the transaction does not happen. */
export type OnRollback = (undo: () => void) => void;

/**
 * A SQLite file that several processes use at once. A statement that reads sees one moment; writes are transactions that
 * take the write lock at their start, so that what they have read still holds when they write. Their bodies are
 * synchronous: nothing else of this process runs in the middle of a transaction.
 */
export class Database<Name extends string = never> {
  readonly #file: DatabaseSync;
  readonly #statements: Statements<Name>;
  readonly #patience: Patience;

  private constructor(file: DatabaseSync, statements: Statements<Name>, patience: Patience) {
    this.#file = file;
    this.#statements = statements;
    this.#patience = patience;
  }

  /**
   * Opens or makes the file. `prepare` sees it first, inside a write transaction, and makes the tables that the
   * statements need; before it, `accept` may refuse a file that is somebody else's (nothing has been written then).
   * @throws UnpackError STORE_FAILED, STORE_FULL
   */
  static async open<Name extends string>(
    patience: Patience,
    setup: {
      readonly accept: (file: DatabaseSync) => void;
      readonly prepare: (file: DatabaseSync) => void;
      readonly statements: Readonly<Record<Name, string>>;
    },
  ): Promise<Database<Name>> {
    const { path } = patience;
    let file: DatabaseSync;
    try {
      file = new DatabaseSync(path, { timeout: BUSY_TIMEOUT, enableForeignKeyConstraints: true });
    } catch (error) {
      throw databaseError(path, error);
    }
    try {
      await patiently(patience, () => setup.accept(file));
      await patiently(patience, () => useWriteAheadLog(file, path));
      await patiently(patience, () => transaction(file, () => setup.prepare(file)));
      // `as`: Object.fromEntries forgets which keys there were
      const statements = Object.fromEntries(
        Object.entries<string>(setup.statements).map(([name, sql]) => [name, file.prepare(sql)]),
      ) as Statements<Name>;
      return new Database(file, statements, patience);
    } catch (error) {
      file.close();
      throw databaseError(path, error);
    }
  }

  /** @throws UnpackError STORE_FAILED, also when other processes kept the file locked for too long */
  read<T>(body: (statements: Statements<Name>) => T): Promise<T> {
    return patiently(this.#patience, () => body(this.#statements));
  }

  /**
   * Runs `body` in a transaction. When it or the commit fails, everything that was registered with `onRollback` is
   * undone, last first, with the write lock held: no other process changes anything at the same time.
   * @throws UnpackError as `read`, STORE_FULL; whatever `body` throws
   */
  write<T>(body: (statements: Statements<Name>, onRollback: OnRollback) => T): Promise<T> {
    const file = this.#file;
    const run = () => transaction(file, (onRollback) => body(this.#statements, onRollback));
    return patiently(this.#patience, () => {
      try {
        return run();
      } catch (error) {
        if (sqliteCode(error) !== SQLITE.FULL) throw error;
        // Once what the log holds is in the file, the log is written from its start again and needs no new space: on a
        // full disk this is what lets a snapshot be removed.
        attempt(() => file.exec('PRAGMA wal_checkpoint(RESTART)'));
        return run();
      }
    });
  }

  close(): void {
    if (this.#file.isOpen) this.#file.close();
  }
}

function useWriteAheadLog(file: DatabaseSync, path: string): void {
  // FULL: a change that has been reported is on the disk, also when the power goes.
  file.exec('PRAGMA synchronous = FULL');
  const mode = file.prepare('PRAGMA journal_mode = WAL').get()?.journal_mode;
  if (mode === 'wal') return;
  throw new UnpackError('STORE_FAILED', `${path}: its file system has no shared memory maps: choose a local disk`);
}

function transaction<T>(file: DatabaseSync, body: (onRollback: OnRollback) => T): T {
  const undo: (() => void)[] = [];
  file.exec('BEGIN IMMEDIATE');
  try {
    const result = body((step) => undo.push(step));
    file.exec('COMMIT');
    return result;
  } catch (error) {
    attempt(() => {
      // When the disk is full SQLite rolls a failed COMMIT back by itself, and the lock is gone. Another process may have
      // taken it since; what is undone must look whether it still has to be.
      if (!file.isTransaction) file.exec('BEGIN IMMEDIATE');
      for (const step of undo.reverse()) attempt(step);
      file.exec('ROLLBACK');
    });
    throw error;
  }
}

/** The first error is the one that counts. */
function attempt(step: () => void): void {
  try {
    step();
  } catch {}
}

/** The first try is made at once and in this call: most succeed, and a look at one row takes as long as one more `await`. */
function patiently<T>(patience: Patience, call: () => T): Promise<T> {
  try {
    return Promise.resolve(call());
  } catch (error) {
    return isBusy(error) ? tryAgain(patience, call, error) : Promise.reject(databaseError(patience.path, error));
  }
}

async function tryAgain<T>({ path, limit }: Patience, call: () => T, first: unknown): Promise<T> {
  const deadline = performance.now() + limit;
  for (let busy = first; ; ) {
    if (performance.now() >= deadline) {
      throw new UnpackError(
        'STORE_FAILED',
        `other processes kept ${path} locked for ${limit / 1000} s: look for one that hangs with the store open`,
        { cause: busy },
      );
    }
    await sleep(Math.random() * PAUSE);
    try {
      return call();
    } catch (error) {
      if (!isBusy(error)) throw databaseError(path, error);
      busy = error;
    }
  }
}

/** Primary result codes (sqlite.org/rescode.html); node:sqlite doesn't export them. */
const SQLITE = {
  PERM: 3,
  BUSY: 5,
  LOCKED: 6,
  NOMEM: 7,
  READONLY: 8,
  IOERR: 10,
  CORRUPT: 11,
  FULL: 13,
  CANTOPEN: 14,
  NOTADB: 26,
} as const;

const SENTENCES: Readonly<Record<number, string>> = {
  [SQLITE.PERM]: 'this user may not use it',
  [SQLITE.NOMEM]: 'no memory is left to use it: give the machine or the container more',
  [SQLITE.IOERR]:
    'its disk cannot be read or written, or a quota is used up: see what the kernel logs (dmesg), and restart the worker when it is mended',
  [SQLITE.CORRUPT]:
    'it is damaged: stop the workers and check the file system (fsck); if that does not mend it, remove the store and unpack anew',
  [SQLITE.READONLY]: 'it can only be read: check the owner and whether the file system is mounted read-only',
  [SQLITE.CANTOPEN]: 'it cannot be opened: check that its directory exists and that this user may write there',
  [SQLITE.NOTADB]:
    "it is another program's file (containerd's own stores have one of that name): choose an empty directory",
};

/** A failure of SQLite as an UnpackError; anything else as it is. */
function databaseError(path: string, error: unknown): unknown {
  const code = sqliteCode(error);
  if (code === undefined || !(error instanceof Error)) return error;
  // it does not say that a write failed for want of space when it failed in the file that its processes share
  if (code === SQLITE.FULL || (code === SQLITE.IOERR && isFull(path))) {
    return new UnpackError('STORE_FULL', `no space left to write ${path}; ${MAKE_ROOM}`, { cause: error });
  }
  return new UnpackError('STORE_FAILED', `${path}: ${SENTENCES[code] ?? error.message}`, { cause: error });
}

function isFull(path: string): boolean {
  try {
    return spaceOf(path).bytes === 0;
  } catch {
    return false;
  }
}

function isBusy(error: unknown): boolean {
  const code = sqliteCode(error);
  return code === SQLITE.BUSY || code === SQLITE.LOCKED;
}

/** The primary code of an SQLite error, without what the extended one adds. */
function sqliteCode(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('errcode' in error) || typeof error.errcode !== 'number') return undefined;
  return error.errcode & 0xff;
}
