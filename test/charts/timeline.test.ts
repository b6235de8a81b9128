import assert from 'node:assert/strict';
import { test } from 'node:test';
import { timelineSvg } from '../../src/charts/timeline.ts';
import type { UnpackResult } from '../../src/queue/formats.ts';

type Layer = UnpackResult['images'][number]['layers'][number];

const digest = (digit: string) => `sha256:${digit.repeat(64)}`;
const existed: Layer = {
  diffId: digest('1'),
  chainId: digest('2'),
  blobDigest: digest('3'),
  state: 'existed',
  compressedBytes: 1_000_000,
};
const applied: Layer = {
  ...existed,
  blobDigest: digest('4'),
  state: 'applied',
  uncompressedBytes: 3_000_000,
  entries: 1234,
  timings: { fetchMs: 100, decompressMs: 200, writeMs: 700, totalMs: 1000 },
  timeline: {
    queuedMs: 10,
    startedMs: 500,
    unpackedMs: 1500,
    committingMs: 1900,
    committedMs: 2000,
    samples: [
      [1000, 500_000, 1_500_000, 100, 100],
      [1500, 1_000_000, 3_000_000, 100, 200],
    ],
  },
};

function resultOf(image: string, layers: Layer[]): UnpackResult {
  return {
    version: 1,
    image,
    images: [{ platform: 'linux/amd64', chainId: digest('5'), layers }],
    worker: { name: 'worker-1', host: 'host' },
    store: { root: '/store', snapshotter: 'overlay' },
    startedAt: '2026-01-31T12:00:00.000Z',
    durationMs: 2010,
    attempts: 1,
    warnings: [],
  };
}

test('a timeline has a row for each layer with its size and its time', () => {
  const svg = timelineSvg(resultOf('registry.example/app:1', [existed, applied]));
  assert.match(svg, /^<svg xmlns=/);
  assert.match(svg, /registry\.example\/app:1</);
  assert.match(svg, /1 {2}sha256:333333333333…/);
  assert.match(svg, />existed</);
  assert.match(svg, /2 {2}sha256:444444444444…/);
  assert.match(svg, /977 KiB → 2\.9 MiB, 1,234 entries/);
  assert.match(svg, />1\.00 s</);
});

test('names are escaped, so that they cannot become markup', () => {
  const svg = timelineSvg(resultOf('registry.example/<script>&"', [applied]));
  assert.match(svg, /registry\.example\/&lt;script&gt;&amp;&quot;/);
  assert.doesNotMatch(svg, /<script>/);
});

test('control characters are made visible, because XML does not allow them', () => {
  const svg = timelineSvg(resultOf('registry.example/a\u0000\u001b\u202eb', [applied]));
  assert.match(svg, /registry\.example\/a\\u\{0\}\\u\{1b\}\\u\{202e\}b/);
});

test('an image that existed and an image of more than a hundred layers can be drawn', () => {
  assert.match(timelineSvg(resultOf('a', [existed])), />existed</);
  const many = timelineSvg(resultOf('b', new Array<Layer>(128).fill(applied)));
  assert.doesNotMatch(many, /NaN|Infinity|undefined/);
  assert.ok(many.length < 200_000, `${many.length}`);
});
