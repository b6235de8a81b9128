import { statSync } from 'node:fs';
import { defaultProvider } from '@aws-sdk/credential-provider-node';
import { errnoOf } from '../errno.ts';

/** The options that a client of the AWS SDK gives to its chain of credentials. */
type ChainOptions = NonNullable<Parameters<typeof defaultProvider>[0]>;
type Chain = ReturnType<typeof defaultProvider>;

/** Milliseconds between two attempts to read files that give no credentials and do not change. */
const PAUSE = 5000;

/**
 * The standard chain of credentials of AWS, for `s3Client`. The SDK reads the shared files of AWS once in the life of a process, and
 * keeps a key without an end for ever. This chain reads the files again when they have changed, and whenever a server has refused
 * the credentials (`refreshCredentials`). Other credentials have an end, and the SDK gets new ones before it.
 * @param files the shared files of AWS
 */
export function credentialChain(options: ChainOptions, files: readonly string[]): Chain {
  const chain = defaultProvider({ ...options, ignoreCache: true });
  let known = stateOf(files);
  /** The files that gave no credentials, and until when they are not read again; performance.now(). */
  let failed = { state: '', until: 0 };
  return async (wanted) => {
    const now = stateOf(files);
    if (now === known || (now === failed.state && performance.now() < failed.until)) return chain(wanted);
    try {
      const renewed = await chain({ ...wanted, forceRefresh: true });
      known = now;
      return renewed;
    } catch {
      // the file is possibly half-written
      failed = { state: now, until: performance.now() + PAUSE };
      return chain(wanted);
    }
  };
}

/** Changes when a file is written, or replaced by another. */
function stateOf(files: readonly string[]): string {
  return files.map(stampOf).join();
}

function stampOf(path: string): string {
  try {
    const { mtimeMs, ino, size } = statSync(path);
    return `${mtimeMs} ${ino} ${size}`;
  } catch (error) {
    return errnoOf(error) ?? '';
  }
}
