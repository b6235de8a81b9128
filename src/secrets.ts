/**
 * Keeps passwords, keys and signatures out of what people read: messages, logs, listings. What cannot be told apart from
 * a secret is masked with it, because a lost piece of a host name does less harm than a shown piece of a password.
 */

const MASK = '***';
/** Shorter ones are too likely to be a piece of an ordinary word, and masking them would ruin sentences. */
const SHORTEST_KNOWN = 6;

const known = new Set<string>();

/** From now on this text is masked wherever `maskSecrets` meets it, also percent-encoded. */
export function addSecret(secret: string | undefined): void {
  if (secret === undefined || secret.length < SHORTEST_KNOWN) return;
  known.add(secret);
  known.add(encodeURIComponent(secret));
  // as it stands in JSON
  known.add(JSON.stringify(secret).slice(1, -1));
}

/** A URL to its first white space or quotation mark. */
const URLS = /\b([a-z][a-z0-9+.-]*:\/\/)((?:[^\s"'<>\\]|\\.)+)/gi;
/** The end of a user and password: an `@`, unless it begins a digest (`s3://images/app@sha256:…`). */
const AT = /@(?!sha\d+:)/g;
/** What this project's own sentences say to write. */
const EXAMPLE = /^\[?(user)?:password$/;
const QUEUE_SCHEME = /^(rediss?|valkeys?)/i;
const PLAIN_HOST = /^(\[[0-9a-f:.]*\]|[\w.-]*)(:\d*)?$/i;

/** Parameters of a query, or fields of a header, that let their reader in. */
const PARAMETERS =
  /((?:^|[^\w-])(?:x-amz-(?:signature|credential|security-token)|signature|awsaccesskeyid|sig|(?:access_|session_?|auth)?token|passw(?:or)?d|pass|pwd|(?:client_?)?secret|secret_?access_?key|aws_secret_access_key|aws_session_token|api[_-]?key)=)[^&\s"'<>#,;]+/gi;
const AUTHORIZATION = /\b(authorization["']?\s*[:=]\s*["']?(?:[\w-]+ +)?)[^\s"',;]+/gi;

/** `text` without the secrets in it: users and passwords of URLs, signatures, and every one that `addSecret` was told. */
export function maskSecrets(text: string): string {
  let masked = text;
  for (const secret of known) if (masked.includes(secret)) masked = masked.replaceAll(secret, MASK);
  if (masked.includes('://'))
    masked = masked.replace(URLS, (_, scheme, rest) => `${scheme}${maskUserInfo(scheme, rest)}`);
  if (masked.includes('=')) masked = masked.replace(PARAMETERS, `$1${MASK}`);
  return /authorization/i.test(masked) ? masked.replace(AUTHORIZATION, `$1${MASK}`) : masked;
}

/**
 * A password that is not percent-encoded ends anywhere: everything up to the last `@` may be one, unless a whole host
 * stands before the first `/`, `?` or `#`. Redis has no paths with an `@`, so there even that proves nothing.
 */
function maskUserInfo(scheme: string, rest: string): string {
  const last = [...rest.matchAll(AT)].at(-1)?.index;
  if (last === undefined) return rest;
  if (EXAMPLE.test(rest.slice(0, last))) return rest;
  const authority = /^[^/?#]*/.exec(rest)?.[0] ?? '';
  if (!QUEUE_SCHEME.test(scheme) && PLAIN_HOST.test(authority)) return rest;
  // with `s3://bucket/…@tag` there is no user either
  return `${MASK}${rest.slice(last)}`;
}
