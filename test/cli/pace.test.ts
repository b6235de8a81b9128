import assert from 'node:assert/strict';
import { test } from 'node:test';
import { progressLines } from '../../src/cli/job-view.ts';
import { Pace } from '../../src/cli/pace.ts';
import type { Progress } from '../../src/queue/formats.ts';

test('the speed is that of the last five seconds, and the time left follows from it', () => {
  const pace = new Pace();
  assert.equal(pace.speed(1000, 0), undefined);
  for (let second = 0; second <= 10; second += 1) pace.add(second * 10, second * 1000);
  for (let second = 11; second <= 16; second += 1) pace.add(100 + (second - 10) * 100, second * 1000);
  assert.deepEqual(pace.speed(1000, 16_000), { bytesPerSecond: 100, left: 3000 });
});

test('a download that stands still has a speed of 0 and no time left', () => {
  const pace = new Pace();
  for (const second of [0, 1, 2, 3, 4, 5, 6, 7]) pace.add(500, second * 1000);
  assert.deepEqual(pace.speed(1000, 7000), { bytesPerSecond: 0, left: undefined });
});

test('there is no speed in the first second, when all bytes have arrived, and at the start of a new attempt', () => {
  const pace = new Pace();
  pace.add(0, 0);
  pace.add(10, 500);
  assert.equal(pace.speed(100, 500), undefined);
  pace.add(100, 2000);
  assert.equal(pace.speed(100, 2000), undefined);
  pace.add(0, 2500);
  assert.equal(pace.speed(100, 2500), undefined);
});

test('the lines of a job show the speed, and what is done for each layer', () => {
  const layer = (phase: string, step?: string) => ({
    chainId: `sha256:${'a'.repeat(64)}`,
    phase,
    ...(step === undefined ? {} : { step }),
    size: 2048,
    fetched: 1024,
    unpacked: 0,
  });
  const layers = [layer('applying', 'fetching'), layer('applying', 'writing'), layer('applying', 'below')];
  const progress = {
    phase: 'unpacking',
    attempt: 1,
    attempts: 5,
    layersDone: 0,
    layersTotal: 5,
    bytesFetched: 5120,
    bytesTotal: 10_240,
    images: [{ layers: [...layers, layer('queued'), layer('waiting'), layer('committing')] }],
  };
  // only the fields that are shown
  const lines = progressLines(progress as unknown as Progress, { bytesPerSecond: 1024, left: 4200 });
  assert.equal(lines[0], '0 of 5 layers, 5.0 KiB of 10.0 KiB, 1.0 KiB/s, 5 s left');
  assert.deepEqual(
    lines.slice(1).map((line) => /KiB {2}(.*?) {2,}sha256/.exec(line)?.[1]),
    ['fetching', 'writing', 'waits for the layer below', 'waits for a thread', 'waits for another job', 'committing'],
  );
  const narrow = progressLines(progress as unknown as Progress, undefined, 40);
  assert.equal(narrow[3], '  3   50%  waits for the layer below');
  assert.ok(narrow.every((line) => line.length < 40));
});
