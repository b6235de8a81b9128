import assert from 'node:assert/strict';
import { once } from 'node:events';
import { startChild } from './child.ts';

/**
 * Runs a shell script in a mount namespace of its own, until the scope ends. Returns when the script has printed a line, which
 * is added at its end.
 * @param options of unshare(1)
 */
export async function inNamespace(
  script: string,
  options: readonly string[] = ['--mount', '--propagation', 'private'],
): Promise<AsyncDisposable & { readonly pid: number }> {
  const child = startChild('unshare', [...options, 'sh', '-e', '-c', `${script}\necho ready\ncat >/dev/null`], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  assert.ok(child.stdout !== null);
  const [line] = await Promise.race([once(child.stdout, 'data'), once(child, 'exit').then(() => ['it has failed'])]);
  assert.equal(String(line).trim(), 'ready');
  assert.ok(child.pid !== undefined);
  return Object.assign(child, { pid: child.pid });
}
