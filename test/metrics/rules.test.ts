import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { runChild } from '../support/child.ts';
import { skipWithout } from '../support/present.ts';

const root = join(import.meta.dirname, '../..');
const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const alerts = [...read('deploy/prometheus/unpackd.rules.yml').matchAll(/- alert: (\w+)/g)].map(
  ([, name = '']) => name,
);
const skip = skipWithout('promtool');

for (const [command, file] of [
  ['check', 'unpackd.rules.yml'],
  ['test', 'unpackd.rules.test.yml'],
] as const) {
  test(`promtool ${command} rules ${file}`, { skip }, () => {
    const { status, stdout, stderr } = runChild('promtool', [command, 'rules', join(root, 'deploy/prometheus', file)]);
    assert.equal(status, 0, `${stdout}${stderr}`);
  });
}

test('every alert fires in a test of promtool', () => {
  const tested = read('deploy/prometheus/unpackd.rules.test.yml').matchAll(
    /alertname: (\w+)\n.*eval_time: \w+\n\s+exp_alerts/g,
  );
  assert.deepEqual([...new Set([...tested].map(([, name = '']) => name))].sort(), [...alerts].sort());
});

test('docs/metrics.md has a section for every alert, and for no other', () => {
  const headings = read('docs/metrics.md').matchAll(/^### (Unpackd\w+)\n\n(?:\S.*\n)+\n\*\*What to do\.\*\* \S/gm);
  assert.deepEqual([...headings].map(([, name = '']) => name).sort(), [...alerts].sort());
});

test('every alert has a summary, and says in one or two sentences what to do', () => {
  const rules = read('deploy/prometheus/unpackd.rules.yml').split('- alert: ').slice(1);
  for (const rule of rules) {
    assert.match(
      rule,
      /^\w+\n[\s\S]*severity: (?:warning|critical) \}\n[\s\S]* summary: .{10,}\n\s+description: ".{30,200}[.?]"\n/,
      rule,
    );
  }
});
