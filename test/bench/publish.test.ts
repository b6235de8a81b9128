import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Machine } from '../../bench/machine.ts';
import { merged, publishedSections, withSection } from '../../bench/report/publish.ts';
import type { Report } from '../../bench/report/write.ts';

const machine = { processors: 2, processor: 'P', memoryBytes: 1, system: 'S', kernel: 'K', node: 'N' } as Machine;

function report(commit: string, names: readonly string[], more: Partial<Report> = {}): Report {
  const results = names.map((name) => ({ name, title: name, commit, reference: '', goals: [], rows: [], absent: [] }));
  return { machine: { ...machine, commit }, quick: false, rounds: 5, results: results as Report['results'], ...more };
}

const commits = ({ results }: Report): string[] => results.map(({ name, commit }) => `${name} ${commit}`);

test('a run of some scenarios leaves the figures of the others, in the order of the scenarios', () => {
  const earlier = report('old', ['local-gzip', 'pull', 'growth']);
  const both = merged(earlier, report('new', ['known-images', 'pull']));
  assert.deepEqual(commits(both), ['local-gzip old', 'pull new', 'known-images new', 'growth old']);
  assert.equal(both.machine.commit, 'new');
});

test('figures of another machine, or of other rounds, are not mixed with these', () => {
  const latest = report('new', ['pull']);
  for (const more of [{ rounds: 2 }, { quick: true }, { machine: { ...machine, processors: 4 } }]) {
    assert.deepEqual(commits(merged(report('old', ['local-gzip'], more), latest)), ['pull new']);
  }
  assert.deepEqual(commits(merged(undefined, latest)), ['pull new']);
});

test('docs/performance.md and README.md show the published results (UPDATE=1 writes them)', async () => {
  const root = join(import.meta.dirname, '../..');
  for (const [page, section] of Object.entries(await publishedSections(root))) {
    const path = join(root, page);
    const text = await readFile(path, 'utf8');
    const current = withSection(text, section);
    assert.ok(current !== undefined, `${page} has the marks <!-- bench --> and <!-- /bench -->`);
    if (process.env.UPDATE === '1') await writeFile(path, current);
    else assert.equal(text, current, page);
  }
});
