/** Content types of error pages: of S3, of proxies, of load balancers. */
const PAGE_TYPE = /^\s*(text\/html|text\/xml|application\/xml|application\/xhtml\+xml)\b/i;

/**
 * Whether a body begins like an error page in HTML or XML. Some servers and proxies send one with status 200.
 * Manifests, configs, links and compressed layers never begin like this, but a tar can begin like this. So callers
 * check a tar only if its size is wrong, too.
 */
export function looksLikeErrorPage(begin: Buffer, contentType: string | undefined): boolean {
  const text = begin
    .toString('latin1', 0, 256)
    .replace(/^\xef\xbb\xbf/, '')
    .trimStart();
  if (/^<(\?xml|!doctype|html|head|body|error)\b/i.test(text)) return true;
  return PAGE_TYPE.test(contentType ?? '') && (text === '' || text.startsWith('<'));
}
