import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Gauge } from 'prom-client';
import { MetricsPage } from '../../src/metrics/metrics-page.ts';
import { version } from '../../src/package.ts';
import { metricValue } from './metric-values.ts';

test('the page has the version, the process and the lag of the event loop', async () => {
  const text = await new MetricsPage('worker', 'queue').text();
  assert.equal(metricValue(text, 'unpackd_build_info', { version, node: process.version, process: 'worker' }), 1);
  assert.ok((metricValue(text, 'process_resident_memory_bytes') ?? 0) > 1e6);
  assert.ok(metricValue(text, 'nodejs_eventloop_lag_p99_seconds') !== undefined);
});

test('every series has the name of the queue', async () => {
  const text = await new MetricsPage('worker', 'images').text();
  const series = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  assert.deepEqual(
    series.filter((line) => !line.includes('queue="images"')),
    [],
  );
});

test('two pages in one process do not share metrics', async () => {
  const one = new MetricsPage('worker', 'queue');
  new Gauge({ name: 'only_here', help: 'x', registers: [one.registry] });
  assert.doesNotMatch(await new MetricsPage('worker', 'queue').text(), /only_here/);
});

test('a part that hangs or fails is left out, the others come, and the page says so', async () => {
  const page = new MetricsPage('board', 'queue', 50);
  const gauge = new Gauge({ name: 'value', help: 'x', labelNames: ['part'], registers: [page.registry] });
  const held = Promise.withResolvers<void>();
  const calls = { sound: 0, hangs: 0, fails: 0 };
  const part = (name: keyof typeof calls, read: () => Promise<void>) => {
    page.add({
      name,
      async read() {
        calls[name] += 1;
        await read();
        gauge.set({ part: name }, 7);
      },
      clear: () => gauge.remove({ part: name }),
    });
  };
  part('sound', async () => {});
  part('hangs', () => held.promise);
  let isBroken = false;
  part('fails', async () => {
    if (isBroken) throw new Error('no answer');
  });
  assert.equal(metricValue(await page.text(), 'value', { part: 'fails' }), 7);

  isBroken = true;
  const text = await page.text();
  assert.equal(metricValue(text, 'value', { part: 'sound' }), 7);
  assert.equal(metricValue(text, 'value', { part: 'hangs' }), undefined);
  assert.equal(metricValue(text, 'value', { part: 'fails' }), undefined, 'the earlier value is not shown');
  const success = (name: string) => metricValue(text, 'unpackd_scrape_part_success', { part: name });
  assert.deepEqual([success('sound'), success('hangs'), success('fails')], [1, 0, 0]);
  assert.equal(metricValue(text, 'unpackd_scrape_part_failures_total', { part: 'hangs' }), 2);
  assert.equal(metricValue(text, 'unpackd_scrape_part_failures_total', { part: 'fails' }), 1);
  assert.equal(calls.hangs, 1, 'a part that hangs is not read a second time');

  held.resolve();
  await new Promise(setImmediate);
  isBroken = false;
  const later = await page.text();
  assert.equal(metricValue(later, 'value', { part: 'hangs' }), 7);
  assert.equal(metricValue(later, 'unpackd_scrape_part_success', { part: 'fails' }), 1);
});
