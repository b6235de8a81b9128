import type { NativeCode } from '../system/native-code.ts';
import { OPENSSL } from '../system/stream-hash.ts';
import { ISAL } from './isal.ts';
import { ZSTD } from './zstd-native.ts';

/**
 * The code that does one kind of work in this process, and why this code is used. `unpackd doctor` and the log of a
 * worker show it.
 */
export interface NativeStatus {
  readonly work: 'digests' | 'gzip' | 'zstd';
  /** The native code, or Node's public API. */
  readonly uses: string;
  readonly why: string;
  /** What to do if the native code should work but does not. Absent if nothing is wrong. */
  readonly advice?: string;
}

/** The native code of this process. It is the default of a parameter, so that tests can pass broken code instead. */
const NATIVE: Readonly<Record<'openssl' | 'isal' | 'zstd', Pick<NativeCode<unknown>, 'problem'>>> = {
  openssl: OPENSSL,
  isal: ISAL,
  zstd: ZSTD,
};

/**
 * The state of all native code. Native code that has not been used yet is loaded and tested by this call.
 * @param inflate whether native decompressors are allowed (`UNPACK_NATIVE_INFLATE`)
 */
export function nativeStatus(inflate: boolean, { openssl, isal, zstd } = NATIVE): NativeStatus[] {
  return [
    status('digests', openssl, 'the OpenSSL inside Node', 'node:crypto'),
    ...(inflate ? [gzip(isal), status('zstd', zstd, 'the zstd inside Node', 'node:zlib')] : switchedOff()),
  ];
}

/** One sentence for each native code that should work and does not. */
export function nativeWarnings(statuses: readonly NativeStatus[]): string[] {
  return statuses.flatMap(({ work, uses, why, advice }) =>
    advice === undefined ? [] : [`${work}: ${uses} is in use; ${why}; ${advice}`],
  );
}

function gzip(isal: Pick<NativeCode<unknown>, 'problem'>): NativeStatus {
  if (isal.problem?.kind === 'missing') {
    return { work: 'gzip', uses: 'node:zlib', why: 'the optional package libisal2 makes it twice as fast' };
  }
  return status('gzip', isal, 'ISA-L', 'node:zlib', 'update the package libisal2, or remove it');
}

function switchedOff(): NativeStatus[] {
  return (['gzip', 'zstd'] as const).map((work) => ({
    work,
    uses: 'node:zlib',
    why: 'UNPACK_NATIVE_INFLATE is false',
  }));
}

function status(
  work: NativeStatus['work'],
  { problem }: Pick<NativeCode<unknown>, 'problem'>,
  native: string,
  publicApi: string,
  advice = 'run unpackd with the Node that npm installs with it (node_modules/.bin/node)',
): NativeStatus {
  if (problem === undefined) return { work, uses: native, why: 'its known-answer test passed' };
  const why = `this is slower, but ${native} cannot be used: ${problem.text}`;
  return { work, uses: publicApi, why, advice };
}
