import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:fs';
import { access, type FileHandle, mkdtemp, open, rmdir, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { promisify } from 'node:util';
import { gunzip } from '../archive/gzip.ts';
import { beginsWithTarHeader } from '../archive/tar-header.ts';
import { unzstd } from '../archive/zstd.ts';
import { errnoOf } from '../errno.ts';
import { abortError, throwIfAborted, UnpackError } from '../errors.ts';

/** Bytes of an archive that are read at once. */
const CHUNK = 1024 * 1024;
/** A tar's first header, and more than any of the marks below needs. */
const HEAD = 512;
/** Memory that xz may take, whatever the archive asks for. */
const XZ_MEMORY = '1GiB';
/** Characters of what xz says that are kept. */
const LONGEST_MESSAGE = 500;

type Packing = 'gzip' | 'zstd' | 'xz';

/** How packed files begin. */
const MARKS: readonly (readonly [packing: string, bytes: readonly number[]])[] = [
  ['gzip', [0x1f, 0x8b]],
  ['zstd', [0x28, 0xb5, 0x2f, 0xfd]],
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ['bzip2', [0x42, 0x5a, 0x68]],
  ['lz4', [0x04, 0x22, 0x4d, 0x18]],
  ['compress', [0x1f, 0x9d]],
  ['lzma', [0x5d, 0x00, 0x00]],
  ['zip', [0x50, 0x4b, 0x03, 0x04]],
];

/**
 * Opens an image archive to be read at random. One that is packed as a whole (gzip, zstd, xz) is unpacked first into a
 * temporary file that has no name any more: it goes with its descriptor, however this process ends. It lies in TMPDIR, else
 * in /var/tmp, which is on a disk where /tmp may be memory.
 * @throws UnpackError MANIFEST_INVALID when what is packed is damaged, UNSUPPORTED_MEDIA_TYPE for other packings and where
 *   the program xz is missing, STORE_FULL, SOURCE_DENIED; what the signal's reason says
 */
export async function openUnpacked(path: string, signal?: AbortSignal): Promise<FileHandle> {
  throwIfAborted(signal);
  const file = await open(path).catch((cause: unknown) => {
    throw new UnpackError('SOURCE_DENIED', `${path} can't be read: ${(cause as Error).message}`, { cause });
  });
  try {
    const packing = await packingOf(file, path);
    if (packing === undefined) return file;
    const plain = await unpacked(file, packing, path, signal);
    await file.close();
    return plain;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** Whether this machine has the program xz. */
export async function hasXz(): Promise<boolean> {
  return promisify(execFile)('xz', ['--version'], { timeout: 10_000 }).then(
    () => true,
    () => false,
  );
}

async function packingOf(file: FileHandle, path: string): Promise<Packing | undefined> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(HEAD), 0, HEAD, 0);
  const head = buffer.subarray(0, bytesRead);
  // a tar may begin with any name
  if (beginsWithTarHeader(head)) return undefined;
  const packing = MARKS.find(([, bytes]) => bytes.every((byte, index) => head[index] === byte))?.[0];
  if (packing === undefined || packing === 'gzip' || packing === 'zstd' || packing === 'xz') return packing;
  throw new UnpackError(
    'UNSUPPORTED_MEDIA_TYPE',
    `${path} is packed with ${packing}: unpack it first; archives may be plain, or packed with gzip, zstd or xz`,
  );
}

async function unpacked(
  file: FileHandle,
  packing: Packing,
  path: string,
  signal: AbortSignal | undefined,
): Promise<FileHandle> {
  const folder = await temporaryFolder();
  const plain = await unnamedFile(folder, path);
  try {
    const pieces = packing === 'xz' ? unxz(file, path, signal) : inflated(file, packing);
    for await (const piece of pieces) {
      throwIfAborted(signal);
      for (let done = 0; done < piece.length; ) done += (await plain.write(piece, done)).bytesWritten;
    }
    return plain;
  } catch (error) {
    await plain.close();
    if (signal?.aborted) throw abortError(signal);
    if (error instanceof UnpackError && error.code === 'LAYER_CORRUPT') {
      throw new UnpackError('MANIFEST_INVALID', `${path} is damaged: ${error.message}`, { cause: error });
    }
    throw noRoom(error, folder, path);
  }
}

/** Its folder and its name are gone before anything is written. */
async function unnamedFile(folder: string, path: string): Promise<FileHandle> {
  try {
    const place = await mkdtemp(join(folder, 'unpackd-push-'));
    try {
      const name = join(place, 'archive');
      const file = await open(name, 'wx+', 0o600);
      await unlink(name);
      return file;
    } finally {
      await rmdir(place);
    }
  } catch (error) {
    throw noRoom(error, folder, path);
  }
}

async function temporaryFolder(): Promise<string> {
  if (process.env.TMPDIR) return tmpdir();
  const usable = await access('/var/tmp', constants.W_OK).then(
    () => true,
    () => false,
  );
  return usable ? '/var/tmp' : tmpdir();
}

function noRoom(error: unknown, folder: string, path: string): unknown {
  if (error instanceof UnpackError || !(error instanceof Error)) return error;
  const full = ['ENOSPC', 'EDQUOT', 'EFBIG'].includes(errnoOf(error) ?? '');
  const why = full ? `there is no space left in ${folder}` : `${folder} can't be written: ${error.message}`;
  return new UnpackError(
    full ? 'STORE_FULL' : 'STORE_FAILED',
    `${path} is packed, and to read it, it is unpacked into a temporary file, but ${why}: set TMPDIR to a directory with more room`,
    { cause: error },
  );
}

function inflated(file: FileHandle, packing: 'gzip' | 'zstd'): AsyncGenerator<Buffer> {
  const chunks = file.createReadStream({ autoClose: false, highWaterMark: CHUNK, start: 0 });
  return packing === 'gzip' ? gunzip(chunks, true) : unzstd(chunks, true);
}

async function* unxz(file: FileHandle, path: string, signal: AbortSignal | undefined): AsyncGenerator<Buffer> {
  const child = spawn('xz', ['--decompress', '--stdout'], {
    stdio: [file.fd, 'pipe', 'pipe'],
    env: { ...process.env, LC_ALL: 'C', XZ_OPT: `--memlimit-decompress=${XZ_MEMORY}` },
    killSignal: 'SIGKILL',
    ...(signal === undefined ? {} : { signal }),
  });
  let failure: Error | undefined;
  let said = '';
  child.once('error', (error) => {
    failure = error;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    if (said.length < LONGEST_MESSAGE) said += text;
  });
  const closed = once(child, 'close');
  closed.catch(() => {}); // it is told by `failure`
  try {
    // `as`: there is one, because it is asked for above
    for await (const piece of child.stdout as Readable) yield piece as Buffer;
  } finally {
    child.kill('SIGKILL'); // where its reader has given up
    if (child.pid !== undefined) await closed.catch(() => {});
  }
  if (signal?.aborted) throw abortError(signal);
  if (failure !== undefined && errnoOf(failure) === 'ENOENT') {
    throw new UnpackError(
      'UNSUPPORTED_MEDIA_TYPE',
      `${path} is packed with xz, and the program xz is not there: install it (package xz-utils), or unpack the archive first`,
    );
  }
  if (failure !== undefined) throw failure;
  if (child.exitCode === 0) return;
  const why = said.replace(/^xz: (\(stdin\): )?/, '').trim() || `xz ended with ${child.signalCode ?? child.exitCode}`;
  throw new UnpackError('MANIFEST_INVALID', `${path} is damaged: xz says: ${why}`);
}
