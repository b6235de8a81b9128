import { readFileSync, type Stats, statSync } from 'node:fs';
import { createSecureContext, type SecureContextOptions } from 'node:tls';
import { errnoOf } from '../errno.ts';
import { ConfigError } from '../errors.ts';
import { readRedisUrl } from '../redis-address.ts';
import type { RedisSettings } from '../redis-settings.ts';
import { addSecret } from '../secrets.ts';

/** The files that the settings of Redis name: passwords, certificates and keys. `connection.ts` reads them. */

type FileSetting = {
  [K in keyof RedisSettings]: K extends `${string}_FILE` | 'REDIS_TLS_CA' | 'REDIS_TLS_CERT' | 'REDIS_TLS_KEY'
    ? K
    : never;
}[keyof RedisSettings];

/** Maximum size of a password file in bytes. A larger file is the wrong file. */
const MAX_PASSWORD_FILE = 4096;
/** The same for certificates: the bundle of a distribution has 220 kB. */
const MAX_PEM_FILE = 10_000_000;

/**
 * Reads a password, without the line break at its end. Messages and logs mask it from then on.
 * @param owner whose password it is, for messages
 * @returns `undefined` if the setting is unset
 * @throws ConfigError
 */
export function readPassword(settings: RedisSettings, name: FileSetting & `${string}_FILE`, owner: string) {
  const file = settings[name];
  if (file === undefined) return undefined;
  const wrong = (why: string) => new ConfigError(`${name}=${JSON.stringify(file)}: ${why}`);
  const text = readSmallFile(name, file, 'password', MAX_PASSWORD_FILE);
  const password = text.replace(/\r?\n$/, '');
  if (password === '') throw wrong(`the file is empty: write the password of ${owner} into it`);
  if (/[\r\n]/.test(password))
    throw wrong(`the file has more than one line: write only the password of ${owner} into it`);
  addSecret(password);
  return password;
}

/** The options of a TLS connection to Redis. */
export type RedisTls = SecureContextOptions & { readonly servername?: string };

/**
 * Reads the certificates and the key, and checks that they fit together. It is called for each new connection, because
 * certificates are renewed while a worker runs.
 * @returns `undefined` without TLS
 * @throws ConfigError
 */
export function readTls(settings: RedisSettings): RedisTls | undefined {
  const address = readRedisUrl(settings.REDIS_URL);
  if (typeof address === 'string' || !address.tls) return undefined;
  const { REDIS_TLS_SERVER_NAME: servername } = settings;
  const ca = readPem(settings, 'REDIS_TLS_CA', 'CERTIFICATE');
  const cert = readPem(settings, 'REDIS_TLS_CERT', 'CERTIFICATE');
  const key = readPem(settings, 'REDIS_TLS_KEY', 'PRIVATE KEY');
  const passphrase = readPassword(settings, 'REDIS_TLS_KEY_PASSWORD_FILE', 'the key');
  const tls: RedisTls = {
    ...(servername === undefined ? {} : { servername }),
    ...(ca === undefined ? {} : { ca }),
    ...(cert === undefined ? {} : { cert }),
    ...(key === undefined ? {} : { key }),
    ...(passphrase === undefined ? {} : { passphrase }),
  };
  try {
    createSecureContext(tls);
  } catch (error) {
    throw new ConfigError(unusable(settings, error));
  }
  return tls;
}

function unusable(
  { REDIS_TLS_CERT, REDIS_TLS_KEY, REDIS_TLS_KEY_PASSWORD_FILE }: RedisSettings,
  error: unknown,
): string {
  const key = `REDIS_TLS_KEY=${JSON.stringify(REDIS_TLS_KEY)}`;
  const code = errnoOf(error) ?? '';
  if (code === 'ERR_OSSL_X509_KEY_VALUES_MISMATCH') {
    return `${key} is not the key of the certificate in REDIS_TLS_CERT=${JSON.stringify(REDIS_TLS_CERT)}: set the two that belong together`;
  }
  const encrypted = /BAD_DECRYPT|BAD_PASSWORD_READ|INTERRUPTED_OR_CANCELLED|MISSING_PASSPHRASE|PKCS12_CIPHERFINAL/.test(
    code,
  );
  if (encrypted && REDIS_TLS_KEY_PASSWORD_FILE === undefined) {
    return `${key} is encrypted: write its password to a file and name it in REDIS_TLS_KEY_PASSWORD_FILE`;
  }
  if (encrypted)
    return `${key} cannot be decrypted with the password in REDIS_TLS_KEY_PASSWORD_FILE: correct the password`;
  const why = error instanceof Error ? error.message : String(error);
  return `REDIS_TLS_CA, REDIS_TLS_CERT or REDIS_TLS_KEY cannot be used: ${why}: write certificates and key in PEM format`;
}

function readPem(settings: RedisSettings, name: 'REDIS_TLS_CA' | 'REDIS_TLS_CERT' | 'REDIS_TLS_KEY', label: string) {
  const file = settings[name];
  if (file === undefined) return undefined;
  const text = readSmallFile(name, file, label === 'CERTIFICATE' ? 'certificate' : 'key', MAX_PEM_FILE);
  if (new RegExp(`-----BEGIN [A-Z ]*${label}-----`).test(text)) return text;
  const what = label === 'CERTIFICATE' ? 'certificate' : 'private key';
  throw new ConfigError(
    `${name}=${JSON.stringify(file)}: the file has no ${what} in PEM format: set the path of one that has`,
  );
}

/** @param content what the file must contain, for messages */
function readSmallFile(name: FileSetting, file: string, content: string, most: number): string {
  const wrong = (why: string) => new ConfigError(`${name}=${JSON.stringify(file)}: ${why}`);
  try {
    const stats = statSync(file);
    if (!stats.isFile()) throw wrong(`it is ${kindOf(stats)}: set the path of a file with the ${content}`);
    if (stats.size > most) {
      throw wrong(
        `it has ${stats.size} bytes, which is too long for a ${content}: set the path of the file with the ${content}`,
      );
    }
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const code = errnoOf(error);
    if (code === 'ENOENT') throw wrong('the file does not exist: create it, or correct the path');
    if (code === 'EACCES') throw wrong('this user has no permission to read the file: change its permissions');
    throw wrong(`the file cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Pipes can be read only once, so they are refused like folders. */
function kindOf(stats: Stats): string {
  return stats.isDirectory() ? 'a folder' : 'not a regular file';
}
