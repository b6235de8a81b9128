import { readFileSync } from 'node:fs';
import type { SecureContext } from 'node:tls';
import { UnpackError } from '../errors.ts';

/** Fetched when it is first used: a thread that needs no TLS starts sooner. */
export const nodeTls = (): typeof import('node:tls') => process.getBuiltinModule('node:tls');

const contexts = new Map<string, SecureContext>();

/**
 * The CAs that Node believes (NODE_EXTRA_CA_CERTS among them) and those in a file of PEM certificates, as `AWS_CA_BUNDLE`
 * names one. Read once a thread: a worker that is to believe others is started again.
 * @throws UnpackError SOURCE_DENIED that names the file
 */
export function contextOf(caBundle: string): SecureContext {
  const known = contexts.get(caBundle);
  if (known !== undefined) return known;
  const context = nodeTls().createSecureContext({ ca: trustedCas(caBundle) });
  contexts.set(caBundle, context);
  return context;
}

/** As contextOf, for Node's own clients. */
export function trustedCas(caBundle: string): string[] {
  let text: string;
  try {
    text = readFileSync(caBundle, 'utf8');
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new UnpackError('SOURCE_DENIED', `AWS_CA_BUNDLE=${caBundle} can't be read: ${why}`, { cause });
  }
  if (!text.includes('-----BEGIN ')) {
    throw new UnpackError('SOURCE_DENIED', `AWS_CA_BUNDLE=${caBundle} holds no certificate in PEM`);
  }
  return [...nodeTls().getCACertificates('default'), text];
}
