import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Paths of PEM files. */
interface Pair {
  readonly cert: string;
  readonly key: string;
}

export interface Certificates {
  readonly ca: string;
  /** For `localhost`, signed by the CA. */
  readonly server: Pair;
  /** The same, but it has expired. */
  readonly expired: Pair;
  readonly client: Pair;
  /** Signed by another CA. */
  readonly foreign: Pair;
  /** The key of `client`, encrypted with `password`. */
  readonly encryptedKey: string;
  readonly password: string;
}

/** Makes a private CA and certificates in a folder, with openssl. */
export function makeCertificates(folder: string): Certificates {
  const at = (name: string) => join(folder, name);
  const openssl = (...args: string[]) => execFileSync('openssl', args, { stdio: 'pipe' });
  const authority = (name: string) => {
    const paths = { cert: at(`${name}.pem`), key: at(`${name}.key`) };
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', paths.key];
    openssl('req', '-x509', ...key, '-out', paths.cert, '-days', '2', '-subj', `/CN=${name}`);
    return paths;
  };
  writeFileSync(at('extensions'), 'subjectAltName=DNS:localhost\n');
  const signed = (name: string, by: Pair, validity: readonly string[]): Pair => {
    const paths = { cert: at(`${name}.pem`), key: at(`${name}.key`) };
    const request = at(`${name}.csr`);
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', paths.key];
    openssl('req', '-new', ...key, '-out', request, '-subj', `/CN=${name}`);
    const ca = ['-CA', by.cert, '-CAkey', by.key, '-CAcreateserial', '-extfile', at('extensions')];
    openssl('x509', '-req', '-in', request, ...ca, '-out', paths.cert, ...validity);
    return paths;
  };
  const ca = authority('unpackd-test-ca');
  const valid = ['-days', '2'];
  const client = signed('client', ca, valid);
  const password = 's3cr3t-key';
  const encryptedKey = at('client-encrypted.key');
  openssl('ec', '-in', client.key, '-aes256', '-passout', `pass:${password}`, '-out', encryptedKey);
  return {
    ca: ca.cert,
    server: signed('localhost', ca, valid),
    // a certificate for -1 days has expired when it is made
    expired: signed('localhost-expired', ca, ['-days', '-1']),
    client,
    foreign: signed('foreign', authority('other-ca'), valid),
    encryptedKey,
    password,
  };
}
