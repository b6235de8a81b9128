import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import '../support/needs-root.ts';
import { runChild } from '../support/child.ts';

const MAIN = join(import.meta.dirname, 'main.ts');
// without CI=true, where a missing program is an error
const prove = (...args: readonly string[]) => runChild(process.execPath, [MAIN, ...args], { ...process.env, CI: '' });

describe('npm run prove', () => {
  it('lists the proofs', () => {
    const { status, stdout } = prove();
    assert.equal(status, 0);
    for (const name of [
      'power-cuts',
      'served-power-cuts',
      'kills',
      'random-images',
      'schedules',
      'fuzz',
      'containerd',
      'collection',
      'soak',
      'failover',
    ]) {
      assert.match(stdout, new RegExp(`^${name} +\\w.+`, 'm'));
    }
  });

  it('prints its seed and its counts, and the same seed makes the same cases', () => {
    const [one, other] = [1, 2].map(() => prove('fuzz', '--cases', '20', '--seed', '7'));
    assert.equal(one?.status, 0);
    assert.ok(one !== undefined);
    assert.match(one.stdout, /^fuzz: .*; seed 7\n/);
    assert.match(one.stdout, /\nfuzz: nothing found in 20 cases, \d+ s, seed 7\n$/);
    const counts = (text = ''): string[] => text.split('\n').filter((line) => /^ +\d+ {2}/.test(line));
    assert.ok(counts(one.stdout).length > 3, one.stdout);
    assert.deepEqual(counts(one.stdout), counts(other?.stdout));
  });

  it('refuses an unknown argument with one sentence', () => {
    const wrong = [
      ['no-such-proof'],
      ['fuzz', '--seed', 'x'],
      ['fuzz', '--seconds', '0'],
      ['fuzz', '--for', '600h'],
      ['fuzz', '--seconds', '1', '--for', '1s'],
      ['fuzz', 'kills'],
      ['fuzz', '--unknown'],
      ['fuzz', '--cases', '-1'],
    ];
    for (const args of wrong) {
      const { status, stdout, stderr } = prove(...args);
      assert.equal(status, 2, args.join(' '));
      assert.equal(stdout, '');
      assert.match(stderr, /^prove: [^\n]+\n$/, args.join(' '));
    }
  });
});
