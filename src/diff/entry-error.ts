import { showName, type TarEntry } from '../archive/entry.ts';
import { toUnpackError, UnpackError } from '../errors.ts';

/** What the host, not the archive, is to blame for. */
const HOST_ERRORS = new Set(['STORE_FULL', 'STORE_FAILED']);

/** Whatever was thrown while an entry was written, as an UnpackError that names it: what cannot be done is the archive's fault. */
export function entryError(error: unknown, entry: TarEntry | undefined): UnpackError {
  const which =
    entry === undefined ? 'an entry' : `the entry ${showName(entry.name)} at byte ${entry.offset} of the tar`;
  if (error instanceof UnpackError) return new UnpackError(error.code, `${which}: ${error.message}`, { cause: error });
  const failure = toUnpackError(error);
  const isSystem = typeof (error as NodeJS.ErrnoException).code === 'string';
  if (HOST_ERRORS.has(failure.code)) {
    return new UnpackError(failure.code, `${which}: ${failure.message}`, { cause: error });
  }
  if (isSystem) {
    return new UnpackError(
      'LAYER_CORRUPT',
      `${which} asks for what cannot be done: ${brief((error as Error).message)}`,
      {
        cause: error,
      },
    );
  }
  return failure;
}

/** A message that ends in a name from the archive, which may be a megabyte long. */
const brief = (message: string): string => (message.length > 300 ? `${message.slice(0, 300)}…` : message);
