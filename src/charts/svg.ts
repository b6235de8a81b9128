import { printable } from '../printable.ts';

/** SVG elements as text, for the charts. Numbers are rounded to a tenth of a pixel, which keeps the file small. */

export type Attributes = Readonly<Record<string, string | number>>;

/**
 * Colours that depend on the background. The attribute is the colour on white, for a file. The board's style sheet changes them
 * by their class, because it also has a dark background.
 */
export const PAPER: Attributes = { class: 'paper', fill: '#fff' };
export const INK: Attributes = { class: 'ink', fill: '#24292f' };
export const FAINT: Attributes = { class: 'faint', fill: '#6b7280' };
export const GRID: Attributes = { class: 'grid', stroke: '#e7e9ed' };
export const AXIS: Attributes = { class: 'axis', stroke: '#9aa1ab' };
export const HATCH: Attributes = { class: 'hatch', fill: '#f1f3f5' };

export function element(name: string, attributes: Attributes, content = ''): string {
  const list = Object.entries(attributes).map(([key, value]) => ` ${key}="${escaped(valueText(value))}"`);
  return content === '' ? `<${name}${list.join('')}/>` : `<${name}${list.join('')}>${content}</${name}>`;
}

export function rect(x: number, y: number, width: number, height: number, attributes: Attributes): string {
  return element('rect', { x, y, width: Math.max(0, width), height: Math.max(0, height), ...attributes });
}

export function line(x1: number, y1: number, x2: number, y2: number, attributes: Attributes): string {
  return element('line', { x1, y1, x2, y2, ...attributes });
}

export function text(x: number, y: number, content: string, attributes: Attributes = {}): string {
  return element('text', { x, y, ...attributes }, escaped(content));
}

/** A whole picture on white, in the system font of the viewer. */
export function document(width: number, height: number, parts: readonly string[]): string {
  const attributes = {
    xmlns: 'http://www.w3.org/2000/svg',
    width,
    height,
    viewBox: `0 0 ${valueText(width)} ${valueText(height)}`,
    'font-family': 'system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif',
    'font-size': 12,
  };
  return `${element('svg', attributes, `\n${[rect(0, 0, width, height, PAPER), ...parts].join('\n')}\n`)}\n`;
}

/** A picture inside a page, as wide as its place. @param name what it shows, for a screen reader */
export function chart(width: number, height: number, name: string, parts: readonly string[]): string {
  const attributes = {
    viewBox: `0 0 ${valueText(width)} ${valueText(height)}`,
    role: 'img',
    'aria-label': name,
    'font-family': 'inherit',
  };
  return element('svg', attributes, parts.join('\n'));
}

/** Round numbers from 0 to `most`, about `count` of them. */
export function ticks(most: number, count: number): number[] {
  if (!(most > 0)) return [0];
  const rough = most / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  // multiples instead of sums, because sums of 0.1 drift
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, index) =>
    Number((index * step).toPrecision(6)),
  );
}

const valueText = (value: string | number): string =>
  typeof value === 'number' ? String(Math.round(value * 10) / 10) : value;

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };

/** Control characters are made visible, because XML allows most of them not even as an entity. */
const escaped = (content: string): string =>
  printable(content).replaceAll(/[&<>"]/g, (character) => ENTITIES[character] ?? '');
