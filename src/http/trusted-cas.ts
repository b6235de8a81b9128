import { readFileSync } from 'node:fs';
import type { SecureContext } from 'node:tls';
import { UnpackError } from '../errors.ts';

/** Loads node:tls at the first use, because a thread without TLS starts faster without it. */
export const nodeTls = (): typeof import('node:tls') => process.getBuiltinModule('node:tls');

/** A PEM file with certificates of CAs to trust besides Node's. */
export interface CaBundle {
  readonly path: string;
  /** The setting that names the file, for messages. */
  readonly setting: string;
}

/** The TLS contexts of a client, one for each CA file. A file is read once, so a worker must be restarted to use a new one. */
export class TlsContexts {
  readonly #contexts = new Map<string, SecureContext>();

  /** @throws UnpackError as `trustedCas` */
  get(caBundle: CaBundle): SecureContext {
    const known = this.#contexts.get(caBundle.path);
    if (known !== undefined) return known;
    const context = nodeTls().createSecureContext({ ca: trustedCas(caBundle) });
    this.#contexts.set(caBundle.path, context);
    return context;
  }
}

/**
 * The CAs that Node trusts, including NODE_EXTRA_CA_CERTS, and the CAs in a PEM file.
 * @throws UnpackError SOURCE_DENIED with the name of the file, if it cannot be read or has no certificate
 */
export function trustedCas({ path, setting }: CaBundle): string[] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new UnpackError('SOURCE_DENIED', `the CA file ${path} (${setting}) can't be read: ${why}`, { cause });
  }
  if (!text.includes('-----BEGIN ')) {
    throw new UnpackError('SOURCE_DENIED', `the CA file ${path} (${setting}) has no certificate in PEM format`);
  }
  return [...nodeTls().getCACertificates('default'), text];
}
