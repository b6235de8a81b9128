import { randomBytes, timingSafeEqual } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { type Html, html } from './html.ts';

/**
 * Guards the forms that change something against other web pages (CSRF). `accessRule` refuses a request whose `Origin` is
 * foreign; this is the second guard, for a browser or proxy that sends no `Origin`. A form has the value of a cookie that only
 * pages of the board can read. The cookie has no secret of the process, so that several boards behind one address work together.
 */

const COOKIE = 'unpackd-form';
const VALUE = /^[A-Za-z0-9_-]{22,64}$/;

/** The hidden field of a form. Sets the cookie if the browser has none. */
export function formField(request: FastifyRequest, reply: FastifyReply): Html {
  let value = cookieOf(request);
  if (value === undefined) {
    value = randomBytes(16).toString('base64url');
    reply.header('set-cookie', `${COOKIE}=${value}; Path=/; HttpOnly; SameSite=Strict`);
  }
  return html`<input type="hidden" name="${COOKIE}" value="${value}">`;
}

/** A field of a form. */
export function formValue({ body }: FastifyRequest, name: string): string | undefined {
  return body instanceof URLSearchParams ? (body.get(name) ?? undefined) : undefined;
}

/** Whether the form of a request comes from a page of this board. */
export function isOwnForm(request: FastifyRequest): boolean {
  const sent = formValue(request, COOKIE);
  const own = cookieOf(request);
  if (sent === undefined || own === undefined) return false;
  const [a, b] = [Buffer.from(sent), Buffer.from(own)];
  return a.length === b.length && timingSafeEqual(a, b);
}

function cookieOf(request: FastifyRequest): string | undefined {
  const pairs = (request.headers.cookie ?? '').split(';').map((pair) => pair.trim());
  const value = pairs.find((pair) => pair.startsWith(`${COOKIE}=`))?.slice(COOKIE.length + 1);
  return value !== undefined && VALUE.test(value) ? value : undefined;
}

/** A form with one button. @param field the hidden field of `formField` */
export function actionForm(
  path: string,
  label: string,
  meaning: string,
  field: Html,
  more: { readonly kind?: 'bad'; readonly values?: Readonly<Record<string, string>> } = {},
): Html {
  const values = Object.entries(more.values ?? {});
  return html`<form method="post" action="${path}">${field}${values.map(([name, value]) => html`<input type="hidden" name="${name}" value="${value}">`)}<button class="${more.kind}">${label}</button></form> <span class="empty">${meaning}</span>`;
}
