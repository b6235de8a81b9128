import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TimelineRecorder } from '../../src/image/timeline.ts';
import type { AppliedDiff } from '../../src/rootfs/applier.ts';

/** A recorder with a clock that the test sets. */
function recorder(queuedAt: number) {
  const clock = { now: queuedAt };
  return { clock, recorder: new TimelineRecorder(() => clock.now) };
}

function diffOf(totalMs: number): AppliedDiff {
  return {
    digest: `sha256:${'a'.repeat(64)}` as AppliedDiff['digest'],
    compressedBytes: 1000,
    uncompressedBytes: 3000,
    entries: 5,
    timings: { fetchMs: 10, decompressMs: 20, writeMs: totalMs - 30, totalMs },
    impliedDirectories: [],
    directoryModes: [],
    needsSecondPass: false,
    usage: { bytes: 0, inodes: 0 },
    findings: { lateDeletions: [] },
    warnings: [],
  };
}

test('a timeline has the times of each phase, and its last sample is the end of unpacking', () => {
  const { clock, recorder: r } = recorder(5);
  clock.now = 120;
  r.progress({ fetched: 400, unpacked: 900, entries: 1, fetchMs: 4, decompressMs: 8 });
  clock.now = 220;
  r.done(diffOf(180));
  clock.now = 500; // the layers below take longer
  r.committing();
  clock.now = 503;
  assert.deepEqual(r.committed(1), {
    queuedMs: 5,
    startedMs: 40,
    unpackedMs: 220,
    committingMs: 500,
    committedMs: 503,
    samples: [
      [120, 400, 900, 4, 8],
      [220, 1000, 3000, 10, 20],
    ],
  });
});

test('a layer that another job applied has no timeline', () => {
  assert.equal(recorder(0).recorder.committed(1), undefined);
});

test('a long layer has as many samples as a short one, spread over its whole time', () => {
  const { clock, recorder: r } = recorder(0);
  for (clock.now = 0; clock.now < 3_600_000; clock.now += 100)
    r.progress({ fetched: clock.now, unpacked: clock.now, entries: 0 });
  r.done(diffOf(3_600_000));
  r.committing();
  const samples = r.committed(1)?.samples ?? [];
  assert.ok(samples.length >= 10 && samples.length <= 32, `${samples.length}`);
  assert.ok(
    samples.every(([at], index) => at > (samples[index - 1]?.[0] ?? 0)),
    'in order',
  );
  assert.equal(samples.at(-1)?.[0], 3_600_000);
  const longest = Math.max(...samples.map(([at], index) => at - (samples[index - 1]?.[0] ?? 0)));
  assert.ok(longest < 3_600_000 / 5, 'no long gap between two samples');
});

test('the layers of an image share its maximum of samples', () => {
  const timelines = Array.from({ length: 128 }, () => {
    const { clock, recorder: r } = recorder(0);
    for (; clock.now < 5000; clock.now += 60) r.progress({ fetched: 1, unpacked: 1, entries: 0 });
    r.done(diffOf(5000));
    r.committing();
    return r.committed(128);
  });
  assert.ok(timelines.every((timeline) => timeline?.samples.length === 2));
});
