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

/** Number of bytes of an archive per read. */
const CHUNK = 1024 * 1024;
/** The first header of a tar; longer than all magic bytes below. */
const HEAD = 512;
/** Maximum memory of xz. */
const XZ_MEMORY = '1GiB';
/** Maximum number of characters of an error message of xz. */
const LONGEST_MESSAGE = 500;

type Compression = 'gzip' | 'zstd' | 'xz';

/** The magic bytes of compressed files. */
const MAGIC: readonly (readonly [compression: string, bytes: readonly number[]])[] = [
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
 * Opens a tar for random access. A compressed tar (gzip, zstd, xz) is first decompressed into an unlinked temporary
 * file, which disappears with its descriptor, however this process ends. It is in TMPDIR, or else in /var/tmp, because
 * /tmp is often in memory.
 * @throws UnpackError MANIFEST_INVALID for damaged data, UNSUPPORTED_MEDIA_TYPE for other compressions and if the program xz is
 *   missing, STORE_FULL, STORE_FAILED, SOURCE_DENIED, the reason of the signal
 */
export async function openTar(path: string, signal?: AbortSignal): Promise<FileHandle> {
  throwIfAborted(signal);
  const file = await open(path).catch((cause: unknown) => {
    throw new UnpackError('SOURCE_DENIED', `${path} can't be read: ${(cause as Error).message}`, { cause });
  });
  try {
    const compression = await compressionOf(file, path);
    if (compression === undefined) return file;
    const plain = await decompressed(file, compression, path, signal);
    await file.close();
    return plain;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** Whether the program xz is installed. */
export async function hasXz(): Promise<boolean> {
  return promisify(execFile)('xz', ['--version'], { timeout: 10_000 }).then(
    () => true,
    () => false,
  );
}

async function compressionOf(file: FileHandle, path: string): Promise<Compression | undefined> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(HEAD), 0, HEAD, 0);
  const head = buffer.subarray(0, bytesRead);
  // the name at the beginning of a tar can look like magic bytes
  if (beginsWithTarHeader(head)) return undefined;
  const compression = MAGIC.find(([, bytes]) => bytes.every((byte, index) => head[index] === byte))?.[0];
  if (compression === undefined || compression === 'gzip' || compression === 'zstd' || compression === 'xz') {
    return compression;
  }
  throw new UnpackError(
    'UNSUPPORTED_MEDIA_TYPE',
    `${path} is compressed with ${compression}; decompress it first. Archives can be uncompressed, or compressed with gzip, zstd or xz`,
  );
}

async function decompressed(
  file: FileHandle,
  compression: Compression,
  path: string,
  signal: AbortSignal | undefined,
): Promise<FileHandle> {
  const folder = await temporaryFolder();
  const plain = await unlinkedFile(folder, path);
  try {
    const pieces = compression === 'xz' ? unxz(file, path, signal) : inflated(file, compression);
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
    throw temporaryFileError(error, folder, path);
  }
}

/** Its directory entry is removed before anything is written. */
async function unlinkedFile(folder: string, path: string): Promise<FileHandle> {
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
    throw temporaryFileError(error, folder, path);
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

function temporaryFileError(error: unknown, folder: string, path: string): unknown {
  if (error instanceof UnpackError || !(error instanceof Error)) return error;
  const full = ['ENOSPC', 'EDQUOT', 'EFBIG'].includes(errnoOf(error) ?? '');
  const why = full ? `there is no space left in ${folder}` : `${folder} can't be written: ${error.message}`;
  return new UnpackError(
    full ? 'STORE_FULL' : 'STORE_FAILED',
    `${path} is compressed and needs a temporary file, but ${why}; set TMPDIR to a directory with more space`,
    { cause: error },
  );
}

function inflated(file: FileHandle, compression: 'gzip' | 'zstd'): AsyncGenerator<Buffer> {
  const chunks = file.createReadStream({ autoClose: false, highWaterMark: CHUNK, start: 0 });
  return compression === 'gzip' ? gunzip(chunks, true) : unzstd(chunks, true);
}

async function* unxz(file: FileHandle, path: string, signal: AbortSignal | undefined): AsyncGenerator<Buffer> {
  const child = spawn('xz', ['--decompress', '--stdout'], {
    stdio: [file.fd, 'pipe', 'pipe'],
    env: { ...process.env, LC_ALL: 'C', XZ_OPT: `--memlimit-decompress=${XZ_MEMORY}` },
    killSignal: 'SIGKILL',
    ...(signal === undefined ? {} : { signal }),
  });
  let failure: Error | undefined;
  let output = '';
  child.once('error', (error) => {
    failure = error;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    if (output.length < LONGEST_MESSAGE) output += text;
  });
  const closed = once(child, 'close');
  closed.catch(() => {}); // `failure` has the error
  let complete = false;
  try {
    // `as`: it exists, because `stdio` has a pipe for it
    for await (const piece of child.stdout as Readable) yield piece as Buffer;
    complete = true;
  } finally {
    // after its output, xz exits by itself, and its exit status shows whether it succeeded
    if (!complete) child.kill('SIGKILL');
    if (child.pid !== undefined) await closed.catch(() => {});
  }
  if (signal?.aborted) throw abortError(signal);
  if (failure !== undefined && errnoOf(failure) === 'ENOENT') {
    throw new UnpackError(
      'UNSUPPORTED_MEDIA_TYPE',
      `${path} is compressed with xz, and the program xz is not installed; install the package xz-utils, or decompress the archive first`,
    );
  }
  if (failure !== undefined) throw failure;
  if (child.exitCode === 0) return;
  const why =
    output.replace(/^xz: (\(stdin\): )?/, '').trim() || `xz exited with ${child.signalCode ?? child.exitCode}`;
  throw new UnpackError('MANIFEST_INVALID', `${path} is damaged: xz says: ${why}`);
}
