import { printable } from '../printable.ts';

/**
 * HTML as template literals: `html` escapes everything that is put into a template, except other templates. So a name of an
 * image, a label or a message of a server can never become markup, and nobody has to remember to escape it.
 *
 * This is a file of our own, because the pages need no more than this, and because a library would leave control characters and
 * marks that reverse the direction of text as they are. Here they are made visible.
 */

/** Markup. Only `html` and `trusted` make it. */
export class Html {
  readonly #markup: string;

  constructor(markup: string) {
    this.#markup = markup;
  }

  toString(): string {
    return this.#markup;
  }
}

/** What a template takes. Lists are joined; `undefined` and `false` are left out. */
export type Part = Html | string | number | undefined | false | readonly Part[];

/** Markup with every part escaped. Attributes must be quoted in the template. */
export function html(markup: TemplateStringsArray, ...parts: readonly Part[]): Html {
  return new Html(markup.map((text, index) => text + (index < parts.length ? rendered(parts[index]) : '')).join(''));
}

/** Markup that is put in as it is. Only for what this program has drawn itself, such as a chart. */
export function trusted(markup: string): Html {
  return new Html(markup);
}

function rendered(part: Part): string {
  if (part === undefined || part === false) return '';
  if (part instanceof Html) return part.toString();
  if (typeof part === 'object') return part.map(rendered).join('');
  return escaped(String(part));
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Line breaks stay, for `<pre>`. */
function escaped(text: string): string {
  const visible = text.split('\n').map(printable).join('\n');
  return visible.replaceAll(/[&<>"']/g, (character) => ENTITIES[character] ?? '');
}
