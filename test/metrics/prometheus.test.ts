import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { freePort } from '../../dev/local-programs.ts';
import { startBoard } from '../../src/board/board.ts';
import { loadConfig } from '../../src/config.ts';
import { createLog } from '../../src/queue/log.ts';
import { type Stage, stage } from '../e2e/stage.ts';
import { startChild } from '../support/child.ts';
import { eventually } from '../support/eventually.ts';
import { imageOf, layerOf } from '../support/layout.ts';
import { skipWithout } from '../support/present.ts';
import { scratch } from '../support/scratch.ts';
import { file, tar } from '../support/tar.ts';

/**
 * A real worker, a real board and a real Prometheus that scrapes both. Every expression of the dashboard and of the alerts must
 * have a value there: a wrong name of a metric or of a label gives none.
 */
const root = join(import.meta.dirname, '../..');
const skip = skipWithout('prometheus');
/** Only a store whose files keep their owners is served to containerd, so only root has the metrics of that. */
const isRoot = process.getuid?.() === 0;
const stack = new AsyncDisposableStack();
after(() => stack.disposeAsync());

let pages: Readonly<Record<'worker' | 'board', string>>;
let prometheus: string;

before(async () => {
  if (skip !== false) return;
  const parts = stack.use(await stage({ type: 'native' }));
  const port = await freePort();
  const manner = isRoot
    ? { UNPACK_SNAPSHOTTER_SOCKET: join(stack.use(scratch()).path, 's.sock') }
    : { UNPACK_OWNERSHIP: 'squash' };
  await parts.worker({ UNPACK_HEALTH_PORT: String(port), UNPACK_ATTEMPTS: '2', ...manner });
  const settings = loadConfig({ REDIS_URL: parts.redis.url, UNPACK_BOARD_PORT: '0' }, {});
  const board = await startBoard(settings, createLog({ UNPACK_LOG_LEVEL: 'silent', UNPACK_LOG_FORMAT: 'json' }));
  stack.defer(() => board.close());
  pages = { worker: `http://127.0.0.1:${port}/metrics`, board: `${board.url}/metrics` };
  prometheus = await startPrometheus([new URL(pages.worker).host, new URL(pages.board).host]);
  await eventually('both processes are scraped twice', async () => {
    const scrapes = await query('min(count_over_time(process_start_time_seconds{job=~"unpackd.*"}[1m]))');
    const ups = await query('count(up == 1)');
    return (scrapes[0] ?? 0) >= 2 && ups[0] === 2;
  });
  await doWork(parts);
});

test('every expression of the dashboard has a value', { skip }, async () => {
  const dashboard: { panels: { title: string; targets?: { expr: string }[] }[] } = JSON.parse(
    read('deploy/grafana/unpackd.json'),
  );
  const expressions = dashboard.panels.flatMap(({ title, targets = [] }) =>
    targets.map(({ expr }) => ({ name: title, expr: withVariables(expr) })),
  );
  assert.ok(expressions.length > 40, `${expressions.length} expressions`);
  await haveValues(expressions);
});

test('every expression of an alert has a value, if its comparisons give 0 or 1', { skip }, async () => {
  const response = await fetch(`${prometheus}/api/v1/rules`);
  // `as`: the format of Prometheus's API
  const { data } = (await response.json()) as {
    data: { groups: { rules: { name: string; query: string }[] }[] };
  };
  const rules = data.groups.flatMap(({ rules }) => rules);
  const names = [...read('deploy/prometheus/unpackd.rules.yml').matchAll(/- alert: (\w+)/g)].map(([, name]) => name);
  assert.deepEqual(
    rules.map(({ name }) => name),
    names,
  );
  await haveValues(rules.map(({ name, query }) => ({ name, expr: withBool(query) })));
});

test('docs/metrics.md names the metrics of the two pages, and no others', { skip }, async () => {
  const texts = await Promise.all(Object.values(pages).map(async (page) => (await fetch(page)).text()));
  const served = texts.join('\n').matchAll(/^# TYPE (unpackd_\w+)/gm);
  const documented = [...read('docs/metrics.md').matchAll(/`(unpackd_\w+)[{`]/g)].filter(
    ([, name = '']) => isRoot || !name.startsWith('unpackd_snapshotter_'),
  );
  const sorted = (found: Iterable<RegExpMatchArray>) => [...new Set([...found].map(([, name = '']) => name))].sort();
  assert.deepEqual(sorted(documented), sorted(served));
});

/** One job of each kind: unpacked, existed, retried and failed, delayed. */
async function doWork({ push, payload, queue }: Stage): Promise<void> {
  const layers = [1, 2, 3].map((number) => layerOf(tar(file(`${number}`, randomBytes(100_000)))));
  await push('work', { app: imageOf(layers) });
  for (let times = 0; times < 2; times++) {
    await queue.wait(await queue.add(payload('work')));
    await queue.wait(await queue.add(payload('work'), { deduplicate: false }));
  }
  await assert.rejects(queue.wait(await queue.add(payload('work', 'missing'))));
  await queue.add(payload('work', 'later'), { delay: 3_600_000 });
}

async function startPrometheus([worker, board]: readonly string[]): Promise<string> {
  const folder = stack.use(scratch());
  const config = {
    global: { scrape_interval: '1s', scrape_timeout: '1s', evaluation_interval: '1s' },
    rule_files: [join(root, 'deploy/prometheus/unpackd.rules.yml')],
    scrape_configs: [
      { job_name: 'unpackd-worker', static_configs: [{ targets: [worker] }] },
      { job_name: 'unpackd-board', static_configs: [{ targets: [board] }] },
    ],
  };
  // JSON is YAML
  writeFileSync(join(folder.path, 'prometheus.yml'), JSON.stringify(config));
  const address = `127.0.0.1:${await freePort()}`;
  stack.use(
    startChild(
      'prometheus',
      [
        `--config.file=${join(folder.path, 'prometheus.yml')}`,
        `--storage.tsdb.path=${join(folder.path, 'data')}`,
        `--web.listen-address=${address}`,
        '--log.level=error',
      ],
      { stdio: 'ignore' },
    ),
  );
  const url = `http://${address}`;
  await eventually('Prometheus is ready', async () => {
    return (await fetch(`${url}/-/ready`).catch(() => undefined))?.status === 200;
  });
  return url;
}

/** Waits until every expression has a finite value. Rates need two scrapes after the jobs. */
async function haveValues(expressions: readonly { readonly name: string; readonly expr: string }[]): Promise<void> {
  let left = expressions.filter(({ expr }) => isRoot || !expr.includes('unpackd_snapshotter_'));
  await eventually('every expression has a value', async () => {
    const found = await Promise.all(left.map(async ({ expr }) => (await query(expr)).some(Number.isFinite)));
    left = left.filter((_, index) => found[index] !== true);
    return left.length === 0;
  }).catch(() => {});
  assert.deepEqual(left, []);
}

/** @throws Error if Prometheus refuses the expression */
async function query(expr: string): Promise<number[]> {
  const response = await fetch(`${prometheus}/api/v1/query?${new URLSearchParams({ query: expr })}`);
  // `as`: the format of Prometheus's API
  const answer = (await response.json()) as {
    status: string;
    error?: string;
    data: { result: { value: [number, string] }[] };
  };
  assert.equal(answer.status, 'success', `${expr}: ${answer.error}`);
  return answer.data.result.map(({ value: [, number] }) => Number(number));
}

/**
 * The expression as Grafana sends it, with all queues, jobs and instances. The interval is longer than the test, so that a busy
 * machine does not ask too late for what the jobs have changed.
 */
function withVariables(expr: string): string {
  return expr.replaceAll('$__rate_interval', '1h').replaceAll(/\$(queue|job|instance)\b/g, '.*');
}

/** Comparisons drop series that do not match; with `bool` they give 0 instead. The text in quotes and braces stays. */
function withBool(expr: string): string {
  return expr.replaceAll(/ (==|!=|<=|>=|<|>) /g, ' $1 bool ');
}

function read(path: string): string {
  return readFileSync(join(root, path), 'utf8');
}
