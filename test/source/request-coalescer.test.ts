import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { UnpackError } from '../../src/errors.ts';
import { RequestCoalescer } from '../../src/source/request-coalescer.ts';

/** Requests that the test ends, in a list. */
function work() {
  const begun: { resolve: (answer: string) => void; reject: (error: Error) => void; signal: AbortSignal }[] = [];
  const run = (signal: AbortSignal) => {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    begun.push({ resolve, reject, signal });
    return promise;
  };
  return { begun, run };
}

/** Waits some turns of the event loop, so that every request that may start has started. */
async function settled(): Promise<void> {
  for (let turns = 0; turns < 5; turns++) await nextTurn();
}

/** A coalescer with two running requests, so that later calls must wait. */
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

test('calls that arrive while two requests run share the next request', async () => {
  const { calls, begun, run, first, second } = await busy();
  const [third, fourth] = [calls.call('key', run), calls.call('key', run)];
  await settled();
  assert.equal(begun.length, 2, 'at most two at the same time');
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

test('a failed request rejects only its own callers', async () => {
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

test('a caller that aborts does not affect the other callers of its request', async () => {
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

test('a request without callers is aborted, or does not start', async () => {
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

test('a call after the last waiting caller has left gets a request of its own', async () => {
  const { calls, begun, run } = await busy();
  const stop = new AbortController();
  // aborts while it waits for its request to start
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

test('an aborted request that does not end delays nobody', async () => {
  const { calls, begun, run, first, stop } = await busy();
  const third = calls.call('key', run);
  stop.abort(new UnpackError('TIMED_OUT', 'enough'));
  await assert.rejects(first, { code: 'TIMED_OUT' });
  await settled();
  assert.equal(begun.length, 3, 'the aborted request has not ended');
  begun[0]?.reject(new Error('much later'));
  begun[2]?.resolve('new');
  assert.equal(await third, 'new');
});

test('a call with an aborted signal starts no request', async () => {
  const calls = new RequestCoalescer<string>();
  const { begun, run } = work();
  await assert.rejects(calls.call('key', run, AbortSignal.abort(new UnpackError('TIMED_OUT', 'no'))), {
    code: 'TIMED_OUT',
  });
  await settled();
  assert.equal(begun.length, 0);
});

test('callers that call again and again share requests, half of them at a time', async () => {
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
  assert.ok(works >= 100 && works < 130, `${works} requests for 4 times 50 calls`);
  assert.equal(most, 2);
});

test('calls of one turn of the event loop share two requests, however many they are', async () => {
  const calls = new RequestCoalescer<string>();
  const { begun, run } = work();
  const all = Array.from({ length: 20 }, () => calls.call('key', run));
  await settled();
  assert.equal(begun.length, 2);
  for (const { resolve } of begun) resolve('same');
  assert.deepEqual(new Set(await Promise.all(all)), new Set(['same']));
});

test('each call is answered by a request that starts after it, with aborts and failures', async () => {
  const step = fc.record({
    /** Turns of the event loop before the call. */
    before: fc.nat(2),
    /** Turns of the event loop that its request takes, and whether it fails. */
    takes: fc.nat(4),
    fails: fc.boolean(),
    /** Turns until the caller aborts; most callers do not. */
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
          (began) => assert.ok(began > called, 'the request started before the call'),
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
      // an aborted request no longer counts, but ends a turn later
      assert.ok(most <= 2 + steps.filter(({ patience }) => patience !== null).length);
    }),
    { numRuns: 200 },
  );
});
