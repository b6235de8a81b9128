import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { removeWithProcess } from './child.ts';

/** A new directory that is removed when the scope ends. */
export function scratch(): { readonly path: string; [Symbol.dispose](): void } {
  const path = mkdtempSync(join(tmpdir(), 'unpackd-test-'));
  removeWithProcess(path);
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}
