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

/** Whether the form of a request comes from a page of this board. */
export function isOwnForm(request: FastifyRequest): boolean {
  const sent = request.body instanceof URLSearchParams ? request.body.get(COOKIE) : null;
  const own = cookieOf(request);
  if (sent === null || own === undefined) return false;
  const [a, b] = [Buffer.from(sent), Buffer.from(own)];
  return a.length === b.length && timingSafeEqual(a, b);
}

function cookieOf(request: FastifyRequest): string | undefined {
  const pairs = (request.headers.cookie ?? '').split(';').map((pair) => pair.trim());
  const value = pairs.find((pair) => pair.startsWith(`${COOKIE}=`))?.slice(COOKIE.length + 1);
  return value !== undefined && VALUE.test(value) ? value : undefined;
}
