import { constants, createReadStream, existsSync } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { UnpackError } from '../errors.ts';
import { algorithmOf, blobDigest, type DigestAlgorithm, hexOf, isDigest } from '../oci/digest.ts';
import { CliError } from './failure.ts';

/** A layer's blob as the command line names it. */
export interface LayerFile {
  readonly path: string;
  readonly algorithm: DigestAlgorithm;
  /** The digest that it should have. */
  readonly promised: string | undefined;
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
    return { path, algorithm, promised: digest };
  }
  if (at > 0 && /^sha\d+:/.test(suffix) && !existsSync(text)) {
    throw new CliError(
      'USAGE',
      `${JSON.stringify(suffix)} in ${JSON.stringify(text)} is not a digest: write @sha256:…`,
    );
  }
  await requireFile(text, text);
  return { path: text, algorithm: 'sha256', promised: undefined };
}

async function requireFile(path: string, text: string): Promise<void> {
  const found = await stat(path).catch((cause: unknown) => {
    throw new UnpackError('BLOB_NOT_FOUND', `there is no layer ${text}: ${path} is not there`, { cause });
  });
  // one that nobody writes to would be waited for without end; what a shell passes (/dev/stdin, /dev/fd/63) has a writer
  if (found.isFIFO() && !/^\/(dev|proc)\//.test(path)) {
    throw new CliError('USAGE', `${text} is a named pipe: give a file, or /dev/stdin`);
  }
  await access(path, constants.R_OK).catch((cause: unknown) => {
    throw new UnpackError('SOURCE_DENIED', `the layer ${text} can't be read by this user`, { cause });
  });
  if (found.isDirectory()) {
    throw new CliError('USAGE', `${text} is a folder: write LAYOUT@sha256:… for a blob of an OCI image layout`);
  }
}

/** Bytes of the file that are read at once. */
const CHUNK = 1 << 20;

export function openLayer({ path }: LayerFile, signal: AbortSignal): AsyncIterable<Buffer> {
  return createReadStream(path, { highWaterMark: CHUNK, signal });
}

/** @throws UnpackError BLOB_DIGEST_MISMATCH */
export function verifyLayer({ path, promised }: LayerFile, actual: string): void {
  if (promised === undefined || promised === actual) return;
  throw new UnpackError('BLOB_DIGEST_MISMATCH', `${path} holds other bytes: they have the digest ${actual}`);
}
