import assert from 'node:assert/strict';
import { test } from 'node:test';
import { run } from '../../bench/commands.ts';
import { measure } from '../../bench/measure.ts';
import { type Entrant, NOBODY, Unavailable } from '../../bench/peers/contestant.ts';
import { race } from '../../bench/race.ts';
import { scenarioMarkdown } from '../../bench/report/table.ts';
import { median, medianRatio } from '../../bench/statistics.ts';

/** Somebody who says when it ran and how long that took. */
function runner(name: string, diary: string[], seconds: readonly number[], more: Partial<Entrant> = {}): Entrant {
  let turn = 0;
  return {
    name,
    how: 'made up',
    enter: async () => ({
      async run() {
        diary.push(name);
        return seconds[turn++ % seconds.length];
      },
    }),
    ...more,
  };
}

const options = { rounds: 2, onRun: () => {} };

test('everybody runs in turn, once to warm up and then so many rounds', async () => {
  const diary: string[] = [];
  const { rows } = await race([runner('a', diary, [9, 1, 2]), runner('b', diary, [9, 3, 4])], options);
  assert.deepEqual(diary, ['a', 'b', 'a', 'b', 'a', 'b']);
  assert.deepEqual(
    rows.map(({ name, samples }) => [name, samples.map(({ seconds }) => seconds)]),
    [
      ['a', [1, 2]],
      ['b', [3, 4]],
    ],
  );
});

test('who can’t take part, or fails on the way, is told with the reason, and the others go on', async () => {
  const diary: string[] = [];
  const missing = runner('missing', diary, [1], {
    enter: async () => {
      throw new Unavailable('it is not installed');
    },
  });
  const failing = runner('failing', diary, [1], {
    enter: async () => ({
      async run() {
        throw new Error('no space left');
      },
    }),
  });
  const result = await race([missing, failing, runner('a', diary, [1])], options);
  assert.deepEqual(result.absent, [
    { name: 'missing', reason: 'it is not installed' },
    { name: 'failing', reason: 'failed: no space left' },
  ]);
  assert.deepEqual(
    result.rows.map(({ name }) => name),
    ['a'],
  );
  const markdown = scenarioMarkdown({ ...result, name: 'n', title: 't', reference: 'a', goals: [] });
  assert.match(markdown, /- missing: it is not installed\n- failing: failed: no space left/);
});

test('a ratio is that of the rounds that both were in', () => {
  assert.equal(median([5, 1, 3]), 3);
  assert.equal(median([1, 2, 3, 10]), 2.5);
  // the machine was half as fast in the second round
  assert.equal(medianRatio([2, 4, 2], [1, 2, 1]), 2);
  assert.equal(medianRatio([2], [1, 8, 8]), 2);
});

test('what a run uses is measured with what it starts, and nothing else', async () => {
  const sample = await measure(NOBODY, async () => {
    const work =
      'const b = Buffer.alloc(80e6, 1); while (process.cpuUsage().user < 300e3); process.stdout.write("x".repeat(1e6))';
    await run('sh', ['-c', `"$0" -e '${work}' >/dev/null`, process.execPath]);
    return undefined;
  });
  assert.ok(sample.seconds > 0.3, `${sample.seconds} s`);
  assert.ok(sample.cpuSeconds > 0.1 && sample.cpuSeconds <= sample.seconds * 4, `${sample.cpuSeconds} s of processor`);
  assert.ok(sample.peakBytes > 80e6 && sample.peakBytes < 500e6, `${sample.peakBytes} bytes of memory`);
  assert.ok(sample.writtenBytes >= 1e6 && sample.writtenBytes < 3e6, `${sample.writtenBytes} bytes written`);
});
