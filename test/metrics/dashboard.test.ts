import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

/**
 * The dashboard as Grafana reads it. Grafana itself is in no package registry, so these tests check what an import needs and what
 * a person needs on each panel. `prometheus.test.ts` evaluates the expressions.
 */
interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly description?: string;
  readonly datasource?: { readonly uid: string };
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly fieldConfig?: { readonly defaults: { readonly unit?: string } };
  readonly targets?: readonly {
    readonly expr: string;
    readonly refId: string;
    readonly datasource: { readonly uid: string };
  }[];
}

// `as`: the format of Grafana's dashboards, of which these parts are used here
const dashboard = JSON.parse(readFileSync(join(import.meta.dirname, '../../deploy/grafana/unpackd.json'), 'utf8')) as {
  readonly panels: readonly Panel[];
  readonly templating: { readonly list: readonly { readonly name: string; readonly definition?: string }[] };
};
const { panels, templating } = dashboard;
const charts = panels.filter(({ type }) => type !== 'row');

test('every panel has a title, a description, a unit and queries of the chosen Prometheus', () => {
  assert.ok(charts.length > 40, `${charts.length} panels`);
  for (const { title, description = '', fieldConfig, datasource, targets = [] } of charts) {
    assert.match(title, /^[A-Z]/);
    assert.match(description, /^\S.{20,}\.$/s, title);
    assert.ok(fieldConfig?.defaults.unit, title);
    assert.ok(targets.length > 0, title);
    const sources = [datasource, ...targets.map((target) => target.datasource)].map((one) => one?.uid);
    assert.deepEqual(new Set(sources), new Set([`$\{datasource}`]), title);
    assert.equal(new Set(targets.map(({ refId }) => refId)).size, targets.length, title);
  }
  assert.equal(new Set(charts.map(({ title }) => title)).size, charts.length, 'every title is there once');
});

test('every query has the chosen queue, and those of a process the chosen processes', () => {
  assert.deepEqual(
    templating.list.map(({ name }) => name),
    ['datasource', 'queue', 'job', 'instance'],
  );
  for (const { title, targets = [] } of charts) {
    for (const { expr } of targets) {
      for (const [selector, name = ''] of expr.matchAll(/\b((?:unpackd|nodejs|process)_\w+)(?:\{[^}]*\})?/g)) {
        if (name === 'unpackd_build_info' && selector === name) continue; // only joined
        const wanted = /^unpackd_queue_/.test(name) ? ['queue'] : ['queue', 'job', 'instance'];
        for (const variable of wanted) {
          assert.ok(selector.includes(`${variable}=~"$${variable}"`), `${title}: ${selector} lacks ${variable}`);
        }
      }
    }
  }
});

test('no panel has the number or the place of another one', () => {
  assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
  const taken = new Map<string, string>();
  for (const { title, gridPos } of panels) {
    assert.ok(gridPos.x + gridPos.w <= 24, title);
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        assert.equal(taken.get(`${x} ${y}`), undefined, `${title} covers another panel`);
        taken.set(`${x} ${y}`, title);
      }
    }
  }
});
