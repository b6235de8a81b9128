import { readFileSync } from 'node:fs';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { setTimeout as sleep } from 'node:timers/promises';
import { isMissing, makeRoomIn } from '../errno.ts';
import { UnpackError } from '../errors.ts';
import { spaceOf } from '../system/space.ts';
import { openReadOnly } from './read-only.ts';

/** How long a call waits for other processes that lock the file, in milliseconds. */
export const LOCK_TIMEOUT = 10_000;
/**
 * How long SQLite itself waits for a lock, in milliseconds. It waits inside the call and blocks the event loop, so the
 * longer wait is done between calls.
 */
const BUSY_TIMEOUT = 5;
/** Maximum pause between two attempts, in milliseconds. It is random, so that processes do not retry at the same moment. */
const PAUSE = 20;

/** A database file and its lock timeout. */
export interface DatabaseFile {
  readonly path: string;
  /** How long to wait for a lock, in milliseconds. */
  readonly lockTimeout: number;
}

type Statements<Name extends string> = { readonly [name in Name]: StatementSync };
/** Registers a step that undoes a change on disk if the transaction fails. */
export type OnRollback = (undo: () => void) => void;

/**
 * A SQLite file that several processes use at once. Transactions is its only user. A write is a transaction that takes the
 * write lock at its start, so what it has read is still true when it writes. The body of a transaction is synchronous, so
 * no other code of this process runs in the middle of it.
 */
export class Database<Name extends string = never> {
  readonly #file: DatabaseSync;
  readonly #statements: Statements<Name>;
  readonly #location: DatabaseFile;
  readonly #dispose: () => void;

  private constructor(
    file: DatabaseSync,
    statements: Statements<Name>,
    location: DatabaseFile,
    dispose: () => void = () => {},
  ) {
    this.#dispose = dispose;
    this.#file = file;
    this.#statements = statements;
    this.#location = location;
  }

  /**
   * Opens or makes the file.
   * @param setup `accept` throws for a file of another program, before anything is written; `prepare` makes the tables,
   *   inside a write transaction; `statements` are prepared after that
   * @throws UnpackError STORE_FAILED, STORE_FULL
   */
  static async open<Name extends string>(
    location: DatabaseFile,
    setup: {
      readonly accept: (file: DatabaseSync) => void;
      readonly prepare: (file: DatabaseSync) => void;
      readonly statements: Readonly<Record<Name, string>>;
    },
  ): Promise<Database<Name>> {
    const { path } = location;
    let file: DatabaseSync;
    try {
      file = new DatabaseSync(path, { timeout: BUSY_TIMEOUT, enableForeignKeyConstraints: true });
    } catch (error) {
      throw databaseError(path, error);
    }
    try {
      await withRetries(location, () => setup.accept(file));
      await withRetries(location, () => useWriteAheadLog(file, path));
      await withRetries(location, () => transaction(file, () => setup.prepare(file)));
      return new Database(file, prepareAll(file, setup.statements), location);
    } catch (error) {
      file.close();
      throw databaseError(path, error);
    }
  }

  /**
   * Uses a file that was opened to read only.
   * @param accept throws if the file cannot be used
   * @throws UnpackError STORE_FAILED
   */
  static async read<Name extends string>(
    location: DatabaseFile,
    setup: {
      readonly accept: (file: DatabaseSync) => void;
      readonly statements: Readonly<Record<Name, string>>;
    },
  ): Promise<Database<Name>> {
    try {
      const { file, dispose } = await openReadOnly(location.path);
      try {
        await withRetries(location, () => setup.accept(file));
        return new Database(file, prepareAll(file, setup.statements), location, dispose);
      } catch (error) {
        file.close();
        dispose();
        throw error;
      }
    } catch (error) {
      throw databaseError(location.path, error);
    }
  }

  /** @throws UnpackError STORE_FAILED, also when other processes kept the file locked for longer than the timeout */
  read<T>(body: (statements: Statements<Name>) => T): Promise<T> {
    return withRetries(this.#location, () => body(this.#statements));
  }

  /** As `read`, in a transaction: no change of another process happens between two statements. @throws UnpackError as `read` */
  readTogether<T>(body: (statements: Statements<Name>) => T): Promise<T> {
    return withRetries(this.#location, () => {
      this.#file.exec('BEGIN');
      try {
        return body(this.#statements);
      } finally {
        this.#file.exec('ROLLBACK');
      }
    });
  }

  /**
   * Runs `body` in a transaction. If `body` or the commit fails, the steps registered with `onRollback` run, last first,
   * while the write lock is held, so that no other process changes anything at the same time.
   * @throws UnpackError as `read`, STORE_FULL; whatever `body` throws
   */
  write<T>(body: (statements: Statements<Name>, onRollback: OnRollback) => T): Promise<T> {
    const file = this.#file;
    const run = () => transaction(file, (onRollback) => body(this.#statements, onRollback));
    return withRetries(this.#location, () => {
      try {
        return run();
      } catch (error) {
        if (sqliteCode(error) !== SQLITE.FULL) throw error;
        // A checkpoint copies the log into the file, and the log is then overwritten from its start. It needs no new
        // space, so a snapshot can be removed on a full disk.
        attempt(() => file.exec('PRAGMA wal_checkpoint(RESTART)'));
        return run();
      }
    });
  }

  close(): void {
    if (!this.#file.isOpen) return;
    this.#file.close();
    this.#dispose();
  }
}

function prepareAll<Name extends string>(
  file: DatabaseSync,
  statements: Readonly<Record<Name, string>>,
): Statements<Name> {
  // `as`: Object.fromEntries forgets which keys there were
  return Object.fromEntries(
    Object.entries<string>(statements).map(([name, sql]) => [name, file.prepare(sql)]),
  ) as Statements<Name>;
}

function useWriteAheadLog(file: DatabaseSync, path: string): void {
  // FULL: a change that was reported survives a loss of power.
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
      // On a full disk, SQLite rolls back a failed COMMIT by itself and releases the lock. Another process may have had
      // the lock since then, so each step must check whether it is still needed.
      if (!file.isTransaction) file.exec('BEGIN IMMEDIATE');
      for (const step of undo.reverse()) attempt(step);
      file.exec('ROLLBACK');
    });
    throw error;
  }
}

/** Ignores an error of the step, because the caller throws the first error. */
function attempt(step: () => void): void {
  try {
    step();
  } catch {}
}

/** The first attempt is synchronous: most succeed, and reading one row takes no longer than an `await`. */
function withRetries<T>(location: DatabaseFile, call: () => T): Promise<T> {
  try {
    return Promise.resolve(call());
  } catch (error) {
    return isBusy(error) ? retry(location, call, error) : Promise.reject(databaseError(location.path, error));
  }
}

async function retry<T>({ path, lockTimeout }: DatabaseFile, call: () => T, first: unknown): Promise<T> {
  const deadline = performance.now() + lockTimeout;
  for (let busy = first; ; ) {
    if (performance.now() >= deadline) {
      throw new UnpackError(
        'STORE_FAILED',
        `other processes kept ${path} locked for ${lockTimeout / 1000} s: look for one that hangs with the store open`,
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

const REBUILD = 'stop the workers and run unpackd snapshots recover, which rebuilds it from the directories';

const SENTENCES: Readonly<Record<number, string>> = {
  [SQLITE.PERM]: 'this user may not use it',
  [SQLITE.NOMEM]: 'no memory is left to use it: give the machine or the container more',
  [SQLITE.IOERR]:
    'its disk cannot be read or written, or a quota is used up: see what the kernel logs (dmesg), and restart unpackd when it is mended',
  [SQLITE.CORRUPT]: `it is damaged: check the file system (fsck), then ${REBUILD}`,
  [SQLITE.READONLY]: 'it can only be read: check the owner and whether the file system is mounted read-only',
  [SQLITE.CANTOPEN]: 'it cannot be opened: check that its directory exists and that this user may write there',
  [SQLITE.NOTADB]: `it is damaged, or another program's file (containerd's own stores have one of that name): if it is damaged, ${REBUILD}; otherwise choose an empty directory`,
};

/** An error of SQLite as an UnpackError. Other errors are returned unchanged. */
function databaseError(path: string, error: unknown): unknown {
  const code = sqliteCode(error);
  if (code === undefined || !(error instanceof Error)) return error;
  // if the shared-memory file cannot grow on a full disk, SQLite reports IOERR and not FULL
  if (code === SQLITE.FULL || (code === SQLITE.IOERR && isFull(path))) {
    return new UnpackError('STORE_FULL', `no space left to write ${path}; ${makeRoomIn('unpackd')}`, { cause: error });
  }
  // if the disk cannot be read, SQLite reports CORRUPT in place of IOERR, and a rebuild would not help
  const sentence = SENTENCES[code === SQLITE.CORRUPT && !canBeRead(path) ? SQLITE.IOERR : code];
  return new UnpackError('STORE_FAILED', `${path}: ${sentence ?? error.message}`, { cause: error });
}

/** Whether the disk gives all bytes of the database, whatever they are. */
function canBeRead(path: string): boolean {
  try {
    for (const file of [path, `${path}-wal`]) readFileSync(file);
    return true;
  } catch (error) {
    return isMissing(error); // there is not always a log
  }
}

function isFull(path: string): boolean {
  try {
    return spaceOf(path).bytes === 0;
  } catch {
    return false;
  }
}

/** Whether an error of SQLite means that the content of the file is damaged. */
export function isDamage(error: unknown): boolean {
  const code = sqliteCode(error);
  return code === SQLITE.CORRUPT || code === SQLITE.NOTADB;
}

function isBusy(error: unknown): boolean {
  const code = sqliteCode(error);
  return code === SQLITE.BUSY || code === SQLITE.LOCKED;
}

/** The primary result code of an SQLite error: the low byte of the extended one. */
function sqliteCode(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('errcode' in error) || typeof error.errcode !== 'number') return undefined;
  return error.errcode & 0xff;
}
