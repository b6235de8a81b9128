/** The formats of S3 on the wire: its errors, its XML documents, and request bodies in chunks. Used by the server. */

/** A call that is refused, with the status and the code of S3's error document. */
export class S3Error extends Error {
  override readonly name = 'S3Error';
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Elements by their names: a list is the same element several times, and `undefined` is left out. */
export interface XmlElement {
  readonly [name: string]: string | number | boolean | undefined | XmlElement | readonly XmlElement[];
}

export function xml(name: string, content: XmlElement): string {
  return `<?xml version="1.0" encoding="UTF-8"?>\n${element(name, content)}`;
}

function element(name: string, content: XmlElement[string]): string {
  if (content === undefined) return '';
  if (Array.isArray(content)) return content.map((one: XmlElement) => element(name, one)).join('');
  const inner =
    typeof content === 'object'
      ? Object.entries(content)
          .map(([child, value]) => element(child, value))
          .join('')
      : escaped(String(content));
  return `<${name}>${inner}</${name}>`;
}

/** The texts of all elements of this name, in order. */
export function readElements(document: string, name: string): string[] {
  const matches = document.matchAll(new RegExp(`<${name}>([^<]*)</${name}>`, 'g'));
  return [...matches].map(([, text = '']) => unescaped(text));
}

const ENTITIES: Readonly<Record<string, string>> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };

/** Escapes the characters that an XML reader would change or would not accept as text. */
const escaped = (text: string): string => text.replaceAll(/[<>&"\r\n]/g, (one) => `&#${one.charCodeAt(0)};`);

function unescaped(text: string): string {
  return text.replaceAll(/&(?:#x([0-9a-f]+)|#(\d+)|(\w+));/gi, (whole, hex, decimal, name) => {
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
    if (decimal !== undefined) return String.fromCodePoint(Number(decimal));
    return ENTITIES[name] ?? whole;
  });
}

/** The content of a body in `aws-chunked` encoding: `LENGTH[;…]\r\nBYTES\r\n` again and again, then `0`, then trailers. */
export function decodeChunked(body: Buffer): Buffer {
  const pieces: Buffer[] = [];
  for (let at = 0; ; ) {
    const end = body.indexOf('\r\n', at);
    const length = Number.parseInt(body.toString('latin1', at, end), 16);
    if (end === -1 || !(length > 0)) return Buffer.concat(pieces);
    pieces.push(body.subarray(end + 2, end + 2 + length));
    at = end + 2 + length + 2;
  }
}
