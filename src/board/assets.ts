import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';

/** The style sheet, the script and the icon of the pages. */

/**
 * Their folder. A bundled program is in `dist/src/cli`, and this source file in `src/board`: two levels below the folder that
 * contains `src/board/assets` both.
 */
const FOLDER = join(import.meta.dirname, '../../src/board/assets');

const TYPES = {
  'board.css': 'text/css; charset=utf-8',
  'board.js': 'text/javascript; charset=utf-8',
  'icon.svg': 'image/svg+xml; charset=utf-8',
} as const;
type Name = keyof typeof TYPES;

export interface Assets {
  /** The URL of a file. It changes with the content, so that browsers keep the file for as long as it is current. */
  url(name: Name): string;
}

/** Reads the files once, and serves them. @throws Error if one is missing */
export function serveAssets(app: FastifyInstance): Assets {
  const urls = new Map<Name, string>();
  for (const [name, type] of Object.entries(TYPES) as [Name, string][]) {
    // `as`: the type of entries() has no keys
    const content = readFileSync(join(FOLDER, name));
    const url = `/assets/${createHash('sha256').update(content).digest('hex').slice(0, 12)}/${name}`;
    urls.set(name, url);
    app.get(url, async (_request, reply) =>
      reply.type(type).header('cache-control', 'private, max-age=31536000, immutable').send(content),
    );
  }
  return { url: (name) => urls.get(name) ?? '' };
}
