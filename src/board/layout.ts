import type { Assets } from './assets.ts';
import { type Html, html, type Part } from './html.ts';

/** The frame of every page: head, navigation, search, and where the script refreshes. */

export interface Page {
  readonly title: string;
  /** The path of the entry of the navigation that this page belongs to. */
  readonly section?: string;
  readonly content: Part;
  /** Milliseconds between two refreshes by the script; default: 3 s. 0: none. */
  readonly refresh?: number;
  /** What the search field has. */
  readonly query?: string;
}

const SECTIONS = [
  ['/', 'Overview'],
  ['/jobs', 'Jobs'],
  ['/images', 'Images'],
  ['/workers', 'Workers'],
  ['/queue', 'Over time'],
  ['/bull', 'Raw'],
] as const;

/** @param queue the name of the queue */
export function layout(page: Page, queue: string, assets: Assets): Html {
  const { title, section, content, refresh = 3000, query = '' } = page;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>${title} · unpackd</title>
<link rel="icon" type="image/svg+xml" href="${assets.url('icon.svg')}">
<link rel="stylesheet" href="${assets.url('board.css')}">
<script type="module" src="${assets.url('board.js')}"></script>
</head>
<body data-refresh="${refresh}">
<a class="skip" href="#main">Skip to the content</a>
<header>
<p class="brand"><a class="home" href="/">unpackd</a> <bdi>${queue}</bdi></p>
<nav aria-label="Pages">${SECTIONS.map(
    ([path, name]) => html`<a href="${path}"${path === section && html` aria-current="page"`}>${name}</a>`,
  )}</nav>
<form role="search" action="/search" method="get">
<label for="q">Find a job by ID or image</label>
<input id="q" name="q" type="search" value="${query}" placeholder="job ID or image" autocomplete="off" maxlength="500">
<button>Find</button>
</form>
<p id="live" aria-live="off"></p>
</header>
<p id="outage" role="alert" hidden></p>
<main id="main" tabindex="-1">
${content}
</main>
</body>
</html>
`;
}

const OVERVIEW = html`<a href="/">Overview</a>`;

/** A page that says in one sentence what went wrong. @param more what else a person should know */
export function errorPage(title: string, sentence: string, more: Part = OVERVIEW): Page {
  return sentencePage('bad', title, sentence, more);
}

/** A page that says in one sentence what was done. */
export function donePage(title: string, sentence: string, more: Part): Page {
  return sentencePage('good', title, sentence, more);
}

function sentencePage(level: 'bad' | 'good', title: string, sentence: string, more: Part): Page {
  const content = html`<h1>${title}</h1><section class="panel ${level}"><p><strong><bdi>${sentence}</bdi></strong></p><p>${more}</p></section>`;
  return { title, content, refresh: 0 };
}
