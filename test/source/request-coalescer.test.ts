import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { UnpackError } from '../../src/errors.ts';
import { RequestCoalescer } from '../../src/source/request-coalescer.ts';

/** Work that ends when it is told to, and counts. */
function work() {
  const begun: { resolve: (answer: string) => void; reject: (error: Error) => void; signal: AbortSignal }[] = [];
  const run = (signal: AbortSignal) => {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    begun.push({ resolve, reject, signal });
    return promise;
  };
  return { begun, run };
}

/** Lets everything begin that waits for nothing but the end of a turn of the event loop. */
async function settled(): Promise<void> {
  for (let turns = 0; turns < 5; turns++) await nextTurn();
}

/** Two calls whose work runs: whatever comes now has to wait. */
async function busy() {
  const calls = new RequestCoalescer<string>();
  const { begun, run } = work();
  const stop = new AbortController();
  const first = calls.call('key', run, stop.signal);
  const second = calls.call('key', run);
  await settled();
  assert.equal(begun.length, 2);
  return { calls, begun, run, first, second, stop };
}

test('who calls while two pieces of work run is answered by the next, together with who came meanwhile', async () => {
  const { calls, begun, run, first, second } = await busy();
  const [third, fourth] = [calls.call('key', run), calls.call('key', run)];
  await settled();
  assert.equal(begun.length, 2, 'no more than two at once');
  begun[0]?.resolve('old');
  assert.equal(await first, 'old');
  await settled();
  assert.equal(begun.length, 3);
  begun[2]?.resolve('new');
  assert.deepEqual(await Promise.all([third, fourth]), ['new', 'new']);
  begun[1]?.resolve('slow');
  assert.equal(await second, 'slow');
});

test('calls for other keys do not wait', async () => {
  const { calls, begun, run } = await busy();
  const other = calls.call('other', run);
  await settled();
  assert.equal(begun.length, 3);
  begun[2]?.resolve('3');
  assert.equal(await other, '3');
});

test('a failure is told to those who waited for that work alone', async () => {
  const { calls, begun, run, first, second } = await busy();
  const third = calls.call('key', run);
  begun[0]?.reject(new Error('broken'));
  await assert.rejects(first, /broken/);
  await settled();
  begun[1]?.resolve('whole');
  begun[2]?.resolve('whole, too');
  assert.equal(await second, 'whole');
  assert.equal(await third, 'whole, too');
});

test('one who gives up does not take the answer from the others', async () => {
  const { calls, begun, run } = await busy();
  const stop = new AbortController();
  const leaver = calls.call('key', run, stop.signal);
  const stayer = calls.call('key', run);
  begun[0]?.resolve('old');
  await settled();
  stop.abort(new UnpackError('TIMED_OUT', 'enough'));
  await assert.rejects(leaver, { code: 'TIMED_OUT' });
  assert.equal(begun[2]?.signal.aborted, false);
  begun[2]?.resolve('new');
  assert.equal(await stayer, 'new');
});

test('work that nobody waits for any more is stopped, or not begun', async () => {
  const { calls, begun, run, first, stop } = await busy();
  const stopNext = new AbortController();
  const third = calls.call('key', run, stopNext.signal);
  stopNext.abort(new UnpackError('TIMED_OUT', 'enough'));
  await assert.rejects(third, { code: 'TIMED_OUT' });
  stop.abort(new UnpackError('TIMED_OUT', 'enough'));
  await assert.rejects(first, { code: 'TIMED_OUT' });
  assert.equal(begun[0]?.signal.aborted, true);
  begun[0]?.reject(new Error('stopped'));
  await settled();
  assert.equal(begun.length, 2);
  const later = calls.call('key', run);
  await settled();
  begun[2]?.resolve('again');
  assert.equal(await later, 'again');
});

test('who calls after the last one who waited has left gets work of its own, whatever that one was ended by', async () => {
  const { calls, begun, run } = await busy();
  const stop = new AbortController();
  // its turn comes next, and it is given up before it does
  const leaver = calls.call('key', run, stop.signal);
  stop.abort(new UnpackError('CANCELLED', 'enough'));
  const later = calls.call('key', run);
  await assert.rejects(leaver, { code: 'CANCELLED' });
  begun[0]?.resolve('old');
  await settled();
  assert.equal(begun.length, 3);
  assert.equal(begun[2]?.signal.aborted, false);
  begun[2]?.resolve('new');
  assert.equal(await later, 'new');
});

test('work that was given up and does not end holds nobody up', async () => {
  const { calls, begun, run, first, stop } = await busy();
  const third = calls.call('key', run);
  stop.abort(new UnpackError('TIMED_OUT', 'enough'));
  await assert.rejects(first, { code: 'TIMED_OUT' });
  await settled();
  assert.equal(begun.length, 3, 'the first work has not ended');
  begun[0]?.reject(new Error('much later'));
  begun[2]?.resolve('new');
  assert.equal(await third, 'new');
});

test('a call that is aborted before it is made begins nothing', async () => {
  const calls = new RequestCoalescer<string>();
  const { begun, run } = work();
  await assert.rejects(calls.call('key', run, AbortSignal.abort(new UnpackError('TIMED_OUT', 'no'))), {
    code: 'TIMED_OUT',
  });
  await settled();
  assert.equal(begun.length, 0);
});

test('callers that come again and again share their work, and one half works while the other waits', async () => {
  const calls = new RequestCoalescer<string>();
  let [works, running, most] = [0, 0, 0];
  const work = async () => {
    works++;
    most = Math.max(most, ++running);
    await settled();
    running--;
    return '';
  };
  const caller = async () => {
    for (let times = 0; times < 50; times++) {
      await calls.call('key', work);
      await nextTurn();
    }
  };
  await Promise.all([caller(), caller(), caller(), caller()]);
  // groups of two would take 100, and everybody alone 200
  assert.ok(works >= 100 && works < 130, `${works} pieces of work for 4 times 50 calls`);
  assert.equal(most, 2);
});

test('each call is answered by work that began after it, whoever else gives up and whatever fails', async () => {
  const step = fc.record({
    /** Turns of the event loop before the call. */
    before: fc.nat(2),
    /** Turns that its work would take, and whether that would fail. */
    takes: fc.nat(4),
    fails: fc.boolean(),
    /** Turns until the caller gives up; most do not. */
    patience: fc.option(fc.nat(4), { freq: 3 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40 }), async (steps) => {
      const calls = new RequestCoalescer<number>();
      let [clock, running, most] = [0, 0, 0];
      const ended: Promise<void>[] = [];
      for (const { before, takes, fails, patience } of steps) {
        for (let turns = 0; turns < before; turns++) await nextTurn();
        const called = ++clock;
        const work = async (signal: AbortSignal) => {
          const began = ++clock;
          most = Math.max(most, ++running);
          for (let turns = 0; turns < takes && !signal.aborted; turns++) await nextTurn();
          running--;
          signal.throwIfAborted();
          if (fails) throw new RangeError(String(began));
          return began;
        };
        const stop = new AbortController();
        const answer = calls.call('key', work, stop.signal);
        const judged = answer.then(
          (began) => assert.ok(began > called, 'the work had begun before the call'),
          (error: unknown) => {
            if (error instanceof RangeError) assert.ok(Number(error.message) > called);
            else assert.ok(stop.signal.aborted && (error as UnpackError).code === 'CANCELLED', String(error));
          },
        );
        ended.push(judged);
        if (patience === null) continue;
        ended.push(
          (async () => {
            for (let turns = 0; turns < patience; turns++) await nextTurn();
            stop.abort(new UnpackError('CANCELLED', 'enough'));
          })(),
        );
      }
      await Promise.all(ended);
      // work that was given up counts no more, but ends a turn later
      assert.ok(most <= 2 + steps.filter(({ patience }) => patience !== null).length);
    }),
    { numRuns: 200 },
  );
});
