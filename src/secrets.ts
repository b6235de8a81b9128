/**
 * Masks passwords, keys and signatures in messages, logs and listings. If a text could be part of a secret, it is masked, too,
 * because a masked host name does less harm than a visible piece of a password.
 *
 * The set of known secrets is global, because every message of the process must be masked.
 */

const MASK = '***';
/**
 * Minimum length of a known secret. A shorter secret can be part of ordinary words, so masking it would make messages
 * unreadable.
 */
const SHORTEST_KNOWN = 6;

const known = new Set<string>();

/** Adds a text that `maskSecrets` masks from now on, also in its percent-encoded and JSON forms. */
export function addSecret(secret: string | undefined): void {
  if (secret === undefined || secret.length < SHORTEST_KNOWN) return;
  known.add(secret);
  known.add(encodeURIComponent(secret));
  // as JSON writes it
  known.add(JSON.stringify(secret).slice(1, -1));
}

/** A URL, up to white space or a quotation mark. */
const URLS = /\b([a-z][a-z0-9+.-]*:\/\/)((?:[^\s"'<>\\]|\\.)+)/gi;
/** The `@` after a user and a password. An `@` before a digest does not count (`s3://images/app@sha256:…`). */
const AT = /@(?!sha\d+:)/g;
/** The placeholder in this project's own messages. */
const EXAMPLE = /^\[?(user)?:password$/;
const QUEUE_SCHEME = /^(rediss?|valkeys?)/i;
const PLAIN_HOST = /^(\[[0-9a-f:.]*\]|[\w.-]*)(:\d*)?$/i;

/** Parameters of a query and fields of a header that hold credentials. */
const PARAMETERS =
  /((?:^|[^\w-])(?:x-amz-(?:signature|credential|security-token)|signature|awsaccesskeyid|sig|(?:access_|session_?|auth)?token|passw(?:or)?d|pass|pwd|(?:client_?)?secret|secret_?access_?key|aws_secret_access_key|aws_session_token|api[_-]?key)=)[^&\s"'<>#,;]+/gi;
const AUTHORIZATION = /\b(authorization["']?\s*[:=]\s*["']?(?:[\w-]+ +)?)[^\s"',;]+/gi;

/** Masks users and passwords in URLs, signatures, and every secret that `addSecret` was given. */
export function maskSecrets(text: string): string {
  let masked = text;
  for (const secret of known) if (masked.includes(secret)) masked = masked.replaceAll(secret, MASK);
  if (masked.includes('://'))
    masked = masked.replace(URLS, (_, scheme, rest) => `${scheme}${maskUserInfo(scheme, rest)}`);
  if (masked.includes('=')) masked = masked.replace(PARAMETERS, `$1${MASK}`);
  return /authorization/i.test(masked) ? masked.replace(AUTHORIZATION, `$1${MASK}`) : masked;
}

/**
 * Masks everything before the last `@`, because a password that is not percent-encoded can contain any character. If a complete
 * host precedes the first `/`, `?` or `#`, the `@` belongs to the path and nothing is masked. This exception does not hold for
 * Redis URLs, whose paths contain no `@`.
 */
function maskUserInfo(scheme: string, rest: string): string {
  const last = [...rest.matchAll(AT)].at(-1)?.index;
  if (last === undefined) return rest;
  if (EXAMPLE.test(rest.slice(0, last))) return rest;
  const authority = /^[^/?#]*/.exec(rest)?.[0] ?? '';
  if (!QUEUE_SCHEME.test(scheme) && PLAIN_HOST.test(authority)) return rest;
  // keep the `@` and what follows it, so that the host stays visible
  return `${MASK}${rest.slice(last)}`;
}
