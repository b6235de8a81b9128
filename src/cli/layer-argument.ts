import { constants, createReadStream, existsSync } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { UnpackError } from '../errors.ts';
import { algorithmOf, blobDigest, type DigestAlgorithm, hexOf, isDigest } from '../oci/digest.ts';
import { CliError } from './explain-error.ts';

/** The blob of a layer, from an argument of the command line. */
export interface LayerFile {
  readonly path: string;
  readonly algorithm: DigestAlgorithm;
  /** The digest in the argument; `undefined` if the argument is a path. */
  readonly expected: string | undefined;
}

/** Reads `FILE`, or `LAYOUT@DIGEST`: a blob of an OCI image layout. @throws CliError USAGE, UnpackError BLOB_NOT_FOUND */
export async function parseLayerArgument(text: string): Promise<LayerFile> {
  const at = text.lastIndexOf('@');
  const suffix = text.slice(at + 1);
  if (at > 0 && isDigest(suffix)) {
    const digest = blobDigest(suffix);
    const algorithm = algorithmOf(digest);
    const path = join(text.slice(0, at), 'blobs', algorithm, hexOf(digest));
    await requireFile(path, text);
    return { path, algorithm, expected: digest };
  }
  if (at > 0 && /^sha\d+:/.test(suffix) && !existsSync(text)) {
    throw new CliError(
      'USAGE',
      `${JSON.stringify(suffix)} in ${JSON.stringify(text)} is not a digest: write @sha256:…`,
    );
  }
  await requireFile(text, text);
  return { path: text, algorithm: 'sha256', expected: undefined };
}

async function requireFile(path: string, text: string): Promise<void> {
  const found = await stat(path).catch((cause: unknown) => {
    throw new UnpackError('BLOB_NOT_FOUND', `layer ${text} not found: ${path} does not exist`, { cause });
  });
  // opening a named pipe without a writer blocks; a pipe that the shell passes (/dev/stdin, /dev/fd/63) has a writer
  if (found.isFIFO() && !/^\/(dev|proc)\//.test(path)) {
    throw new CliError('USAGE', `${text} is a named pipe: give a file, or /dev/stdin`);
  }
  await access(path, constants.R_OK).catch((cause: unknown) => {
    throw new UnpackError('SOURCE_DENIED', `layer ${text} cannot be read: this user lacks the permission`, { cause });
  });
  if (found.isDirectory()) {
    throw new CliError('USAGE', `${text} is a folder: write LAYOUT@sha256:… for a blob of an OCI image layout`);
  }
}

/** Number of bytes per read of the file. */
const CHUNK = 1 << 20;

export function openLayer({ path }: LayerFile, signal: AbortSignal): AsyncIterable<Buffer> {
  return createReadStream(path, { highWaterMark: CHUNK, signal });
}

/**
 * Checks the digest of the blob against the digest in the argument, if the argument has one.
 * @throws UnpackError BLOB_DIGEST_MISMATCH
 */
export function verifyLayer({ path, expected }: LayerFile, actual: string): void {
  if (expected === undefined || expected === actual) return;
  throw new UnpackError(
    'BLOB_DIGEST_MISMATCH',
    `${path} has the digest ${actual}, not the digest in its name: the file is damaged, copy it again`,
  );
}
