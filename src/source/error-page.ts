/** Types that error pages have: of S3, of proxies, of load balancers. */
const PAGE_TYPE = /^\s*(text\/html|text\/xml|application\/xml|application\/xhtml\+xml)\b/i;

/**
 * Whether bytes that are not what was asked for begin as a document of HTML or XML, which servers and proxies answer with
 * status 200. Manifests, configs and links never do, nor does a compressed layer; a tar may, so it is looked at only when
 * the size is wrong too.
 */
export function looksLikeErrorPage(begin: Buffer, contentType: string | undefined): boolean {
  const text = begin
    .toString('latin1', 0, 256)
    .replace(/^\xef\xbb\xbf/, '')
    .trimStart();
  if (/^<(\?xml|!doctype|html|head|body|error)\b/i.test(text)) return true;
  return PAGE_TYPE.test(contentType ?? '') && (text === '' || text.startsWith('<'));
}
