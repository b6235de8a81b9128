import { execFile, spawn } from 'node:child_process';
import { promisify } from 'node:util';
import { makeRoomIn } from '../errno.ts';
import { toUnpackError, UnpackError } from '../errors.ts';

/**
 * Copies the parent's tree for the native store, with GNU cp. It keeps mode, owner, times to the nanosecond, hard links
 * inside the tree, extended attributes, devices, FIFOs and holes, and shares blocks if the file system can (XFS, Btrfs). It
 * runs as a separate process, so it does not block the event loop and can be killed. BusyBox's cp silently loses attributes
 * and holes, and is refused.
 */
// LC_ALL=C, because the messages are parsed below
const COMMAND = ['env', ['LC_ALL=C', 'cp']] as const;
const OPTIONS = [
  '--recursive',
  '--no-dereference',
  '--no-target-directory',
  '--one-file-system',
  // not `--archive`, which ignores attributes that cannot be copied
  '--preserve=mode,ownership,timestamps,links,xattr',
  '--reflink=auto',
  '--sparse=auto',
];
const VERSION_LIMIT = 10_000;
/** Maximum time of one copy, in milliseconds. */
const COPY_LIMIT = 3_600_000;
/** Maximum characters kept of cp's messages. */
const MESSAGE_LIMIT = 2000;

/** @throws UnpackError STORE_FAILED if this machine has no GNU cp */
export async function requireExactCopier(): Promise<void> {
  const version = await promisify(execFile)(COMMAND[0], [...COMMAND[1], '--version'], { timeout: VERSION_LIMIT }).then(
    ({ stdout }) => stdout,
    () => '',
  );
  if (version.includes('GNU coreutils')) return;
  throw new UnpackError(
    'STORE_FAILED',
    'the native store copies with GNU cp and there is none on the PATH: install coreutils, or use the overlay store',
  );
}

/**
 * Copies the directory `from` and its content to the new path `to`.
 * @param lock a locked descriptor, which cp inherits: the lock is held until cp ends, even if this process is killed
 * @throws UnpackError STORE_FULL, STORE_FAILED; the signal's reason if it is aborted
 */
export async function copyTree(from: string, to: string, lock: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const limit = AbortSignal.timeout(COPY_LIMIT);
  const child = spawn(COMMAND[0], [...COMMAND[1], ...OPTIONS, '--', from, to], {
    stdio: ['ignore', 'ignore', 'pipe', lock],
    signal: AbortSignal.any([signal, limit]),
    killSignal: 'SIGKILL',
  });
  let messages = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    if (messages.length < MESSAGE_LIMIT) messages += text;
  });
  let failure: unknown;
  child.once('error', (error) => {
    failure = error;
  });
  // wait until cp has ended, also after an abort, because it must not write any more when this function returns
  await new Promise((resolve) => child.once('close', resolve));
  signal.throwIfAborted();
  if (child.exitCode === 0) return;
  if (/No space left on device|Disk quota exceeded/.test(messages)) {
    throw new UnpackError(
      'STORE_FULL',
      `no space left to copy ${from}: ${firstLine(messages)}; ${makeRoomIn('unpackd')}`,
    );
  }
  const why = limit.aborted
    ? `it took longer than ${COPY_LIMIT / 60_000} minutes`
    : failure === undefined
      ? `${firstLine(messages)}; the kernel may log more (dmesg)`
      : `cp does not start: ${toUnpackError(failure).message}`;
  throw new UnpackError('STORE_FAILED', `${from} could not be copied: ${why}`, { cause: failure });
}

function firstLine(messages: string): string {
  return messages.split('\n', 1)[0] || 'cp gave no reason';
}
