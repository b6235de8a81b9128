import { execFile, spawn } from 'node:child_process';
import { promisify } from 'node:util';
import { MAKE_ROOM } from '../errno.ts';
import { toUnpackError, UnpackError } from '../errors.ts';

/**
 * The copier is GNU cp: it keeps mode, owner, times to the nanosecond, links among the copied, extended attributes,
 * devices and FIFOs, leaves holes as holes and shares blocks where the file system can (XFS, Btrfs). It runs as a process
 * of its own, off the event loop, and can be ended at any time. Other cps of that name (BusyBox's) quietly lose
 * attributes and holes, and so are refused.
 */
// env(1), because the messages are read below and must not be translated
const COMMAND = ['env', ['LC_ALL=C', 'cp']] as const;
const OPTIONS = [
  '--recursive',
  '--no-dereference',
  '--no-target-directory',
  '--one-file-system',
  // named one by one: `--archive` ignores an attribute that can't be copied, this makes it an error
  '--preserve=mode,ownership,timestamps,links,xattr',
  '--reflink=auto',
  '--sparse=auto',
];
const VERSION_LIMIT = 10_000;
/** A copy that takes longer, in milliseconds, hangs. */
const COPY_LIMIT = 3_600_000;
/** Characters of its messages that are kept. */
const MESSAGE_LIMIT = 2000;

/** @throws UnpackError STORE_FAILED when this machine has no copier that copies exactly */
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
 * Copies the directory `from`, with everything in it, to the new path `to`. The copier inherits the descriptor `lock`, so
 * that a lock on it lasts as long as somebody writes there, also when this process is killed and the copier lives on.
 * @throws UnpackError STORE_FULL, STORE_FAILED; the signal's reason when it is aborted
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
  // not before it has ended: a copier that still writes must not be left behind
  await new Promise((resolve) => child.once('close', resolve));
  signal.throwIfAborted();
  if (child.exitCode === 0) return;
  if (/No space left on device|Disk quota exceeded/.test(messages)) {
    throw new UnpackError('STORE_FULL', `no space left to copy ${from}: ${firstLine(messages)}; ${MAKE_ROOM}`);
  }
  const why = limit.aborted
    ? `it took longer than ${COPY_LIMIT / 60_000} minutes`
    : failure === undefined
      ? `${firstLine(messages)}; the kernel may log more (dmesg)`
      : `the copier does not start: ${toUnpackError(failure).message}`;
  throw new UnpackError('STORE_FAILED', `${from} could not be copied: ${why}`, { cause: failure });
}

function firstLine(messages: string): string {
  return messages.split('\n', 1)[0] || 'the copier gave no reason';
}
