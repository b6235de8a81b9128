import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type Board, startBoard } from '../../src/board/board.ts';
import type { Config } from '../../src/config.ts';
import { UnpackError } from '../../src/errors.ts';
import { createLog } from '../../src/queue/log.ts';
import type { UnpackQueue } from '../../src/queue/producer.ts';
import { eventually, payload, queueFixture } from '../queue/queue-fixture.ts';
import { image, untilAborted } from '../queue/scripted-unpacker.ts';
import { Browser, chromium, type Page } from '../support/chromium.ts';

/** The pages of the board in a real browser. */
const fixture = queueFixture();
/** A name with markup, marks that reverse the direction of text, control characters and letters from right to left. */
const HOSTILE =
  'registry.example/<script>window.pwned=1</script><img src=x onerror=window.pwned=1>\u202egnp\u0000\u001b[31m"\'&אבג';

describe('in Chromium', { skip: chromium === undefined && 'Chromium is not installed' }, () => {
  let browser: Browser;
  let board: Board;
  let settings: Config;
  let queue: UnpackQueue;
  const jobs: Record<string, string> = {};
  let isMended = false;

  before(async () => {
    browser = await Browser.start(chromium ?? '');
    fixture.onEnd(() => browser.close());
    settings = fixture.settings({ UNPACK_BOARD_PORT: '0', UNPACK_JOBS: '2', UNPACK_WORKER_NAME: 'node-1<b>:7' });
    queue = fixture.producer(settings);
    await fixture.worker(settings, (call) => {
      if (call.bucket === 'many') return [image(...new Array<'applied'>(500).fill('applied'))];
      if (call.bucket === 'missing' && !isMended) {
        const details = { layerIndex: 1, layerCount: 3 };
        throw new UnpackError('BLOB_NOT_FOUND', 'layer 2 of 3: no such blob', { details });
      }
      return call.bucket === 'running' ? untilAborted(call) : [image('applied', 'existed', 'applied')];
    });
    for (const bucket of ['one', 'many', 'missing']) {
      const job = await queue.add(payload(bucket), { attempts: 1 });
      jobs[bucket] = job.id;
      await queue.wait(job).catch(() => {});
    }
    jobs.running = (await queue.add(payload('running'))).id;
    await eventually('it runs', async () => (await queue.status(jobs.running ?? '')).progress?.phase === 'unpacking');
    const bull = fixture.bull(settings);
    const later = { delay: 3_600_000 };
    await bull.add('unpack', { image: HOSTILE, labels: { big: 'y'.repeat(10_000) } }, { jobId: 'hostile', ...later });
    await bull.add('<b>name</b>', 'no payload', { jobId: 'odd <b>job</b>', ...later });
    board = await startBoard(settings, createLog({ ...settings, UNPACK_LOG_LEVEL: 'silent' }));
    fixture.onEnd(() => board.close());
    await eventually('Redis is connected', async () => (await fetch(`${board.url}/readyz`)).status === 200);
  });
  after(() => browser.close());

  const paths = (): string[] => [
    '/',
    ...['waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed'].map((state) => `/jobs?state=${state}`),
    ...['one', 'many', 'missing', 'running'].map((name) => `/jobs/${jobs[name]}`),
    '/jobs/hostile',
    `/jobs/${encodeURIComponent('odd <b>job</b>')}`,
    `/jobs/${jobs.many}/raw/returnvalue`,
    '/search?q=registry',
    '/images',
    '/workers',
    '/queue',
    '/bull',
    `/bull/queue/${settings.UNPACK_QUEUE}?status=completed`,
  ];

  const sizes = { desktop: { width: 1280, dark: false }, telephone: { width: 390, dark: true } } as const;
  for (const [name, size] of Object.entries(sizes)) {
    test(`on a ${name} every page loads from this board only, and the browser has no complaint`, async () => {
      for (const path of paths()) {
        const page = await browser.page(size);
        await page.open(`${board.url}${path}`);
        assert.deepEqual(page.complaints, [], path);
        assert.deepEqual(foreign(page), [], path);
        assert.equal(await page.evaluate('typeof window.pwned'), 'undefined', path);
        if (path.startsWith('/bull')) continue;
        const [whole, seen] = await page.evaluate<[number, number]>(
          '[document.documentElement.scrollWidth, document.documentElement.clientWidth]',
        );
        assert.ok(whole <= seen, `${path} is ${whole} pixels wide`);
        assert.equal(await page.evaluate('document.querySelectorAll("main h1").length'), 1, path);
        assert.equal(await page.evaluate(UNNAMED), 0, `${path} has controls without a name`);
      }
    });
  }

  const foreign = ({ requests }: Page): string[] =>
    requests.filter((url) => !url.startsWith(`${board.url}/`) && !/^(data|about):/.test(url));

  test('a page without scripts shows the same', async () => {
    const page = await browser.page({ script: false });
    await page.open(`${board.url}/jobs/${jobs.missing}`);
    const { root } = (await page.call('DOM.getDocument', { depth: -1 })) as { root: object }; // `as`: the protocol says so
    assert.match(JSON.stringify(root), /layer 2 of 3: no such blob/);
    assert.match(JSON.stringify(root), /Mirror the image again, so that the missing blob is uploaded/);
    assert.deepEqual(page.complaints, []);
  });

  test('a click on Retry gives a failed job its attempts again, and the page shows the end by itself', async () => {
    isMended = true;
    const page = await browser.page();
    await page.open(`${board.url}/jobs/${jobs.missing}`);
    assert.equal(await page.evaluate('document.querySelector("h1 .badge").textContent'), 'failed');
    await page.loads(() => page.click('form[action$="/retry"] button'));
    assert.match(
      await page.evaluate<string>('document.querySelector("[role=status]").textContent'),
      /The job waits again/,
    );
    await queue.wait(jobs.missing ?? '');
    await page.evaluate('window.kept = true');
    await eventually('the page shows it', async () =>
      page.evaluate<boolean>('document.querySelector("h1 .badge").textContent === "completed"'),
    );
    assert.equal(await page.evaluate('window.kept'), true, 'the page was not loaded again');
    assert.deepEqual(page.complaints, []);
  });

  test('a refresh keeps open details and the focus', async () => {
    const page = await browser.page();
    await page.open(`${board.url}/jobs/${jobs.running}`);
    await page.click('details[data-key="raw-data"] summary');
    await page.evaluate('document.querySelector("details summary").focus()');
    const bull = fixture.bull(settings);
    await (await bull.getJob(jobs.running ?? ''))?.log('a line that was written now');
    await eventually('the new line is there', async () =>
      page.evaluate<boolean>('document.querySelector("main").textContent.includes("written now")'),
    );
    assert.equal(await page.evaluate('document.querySelector("details[data-key=raw-data]").open'), true);
    assert.equal(await page.evaluate('document.activeElement.nodeName'), 'SUMMARY');
  });

  test('a click on Cancel ends a running job', async () => {
    const page = await browser.page({ width: 390 });
    await page.open(`${board.url}/jobs/${jobs.running}`);
    await page.loads(() => page.click('form[action$="/cancel"] button'));
    assert.match(await page.evaluate<string>(MAIN_TEXT), /The cancel request is set/);
    await assert.rejects(
      queue.wait(jobs.running ?? ''),
      (error: unknown) => error instanceof UnpackError && error.code === 'CANCELLED',
    );
    await eventually('the page shows it', async () =>
      page.evaluate<boolean>('document.querySelector("h1 .badge").textContent === "failed"'),
    );
    assert.deepEqual(page.complaints, []);
  });

  test('while the board is away, the page says so and keeps what it shows', async () => {
    const other = await startBoard(settings, createLog({ ...settings, UNPACK_LOG_LEVEL: 'silent' }));
    await eventually('Redis is connected', async () => (await fetch(`${other.url}/readyz`)).status === 200);
    const page = await browser.page();
    await page.open(`${other.url}/jobs?state=completed`);
    await other.close();
    await eventually('it says so', async () =>
      page.evaluate<boolean>('/The board does not answer/.test(document.querySelector("#outage").textContent)'),
    );
    assert.match(await page.evaluate<string>(MAIN_TEXT), /registry\.example\/one:1/);
  });
});

const MAIN_TEXT = 'document.querySelector("main").textContent';

/** Links, buttons, fields and regions that a screen reader could not name. */
const UNNAMED = `[...document.querySelectorAll('a, button, input:not([type=hidden]), summary, [role=region]')].filter((e) =>
  (e.textContent.trim() || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.labels?.length) ? false : true).length`;
