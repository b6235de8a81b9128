import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { UnpackError } from '../../src/errors.ts';
import { SharedCalls } from '../../src/source/shared-calls.ts';

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

/** Lets everything go on that waits for nothing but its turn, and for others to take part: timers end in their order. */
const settled = () => sleep(5);

test('who calls while work runs is answered by the next, together with all who came meanwhile', async () => {
  const calls = new SharedCalls<string>();
  const { begun, run } = work();
  const first = calls.call('key', run);
  const second = calls.call('key', run);
  const third = calls.call('key', run);
  assert.equal(begun.length, 1, 'the others came after it had begun');
  begun[0]?.resolve('old');
  assert.equal(await first, 'old');
  await settled();
  assert.equal(begun.length, 2);
  begun[1]?.resolve('new');
  assert.deepEqual(await Promise.all([second, third]), ['new', 'new']);
});

test('calls for other keys do not wait', async () => {
  const calls = new SharedCalls<string>();
  const { begun, run } = work();
  const one = calls.call('one', run);
  const two = calls.call('two', run);
  assert.equal(begun.length, 2);
  begun[1]?.resolve('2');
  assert.equal(await two, '2');
  begun[0]?.resolve('1');
  assert.equal(await one, '1');
});

test('a failure is told to those who waited for that work alone', async () => {
  const calls = new SharedCalls<string>();
  const { begun, run } = work();
  const first = calls.call('key', run);
  const second = calls.call('key', run);
  begun[0]?.reject(new Error('broken'));
  await assert.rejects(first, /broken/);
  await settled();
  begun[1]?.resolve('whole');
  assert.equal(await second, 'whole');
  const later = calls.call('key', run);
  begun[2]?.resolve('again');
  assert.equal(await later, 'again');
});

test('one who gives up does not take the answer from the others', async () => {
  const calls = new SharedCalls<string>();
  const { begun, run } = work();
  const stop = new AbortController();
  void calls.call('key', run).catch(() => {});
  const leaver = calls.call('key', run, stop.signal);
  const stayer = calls.call('key', run);
  begun[0]?.resolve('old');
  await settled();
  stop.abort(new UnpackError('TIMED_OUT', 'enough'));
  await assert.rejects(leaver, { code: 'TIMED_OUT' });
  assert.equal(begun[1]?.signal.aborted, false);
  begun[1]?.resolve('new');
  assert.equal(await stayer, 'new');
});

test('work that nobody waits for any more is stopped, or not begun', async () => {
  const calls = new SharedCalls<string>();
  const { begun, run } = work();
  const [stop, stopNext] = [new AbortController(), new AbortController()];
  const first = calls.call('key', run, stop.signal);
  const second = calls.call('key', run, stopNext.signal);
  stopNext.abort(new UnpackError('TIMED_OUT', 'enough'));
  await assert.rejects(second, { code: 'TIMED_OUT' });
  stop.abort(new UnpackError('TIMED_OUT', 'enough'));
  await assert.rejects(first, { code: 'TIMED_OUT' });
  assert.equal(begun[0]?.signal.aborted, true);
  begun[0]?.reject(new Error('stopped'));
  await settled();
  assert.equal(begun.length, 1);
  const later = calls.call('key', run);
  begun[1]?.resolve('again');
  assert.equal(await later, 'again');
});

test('who calls after the last one who waited has left gets work of its own, whatever that one was ended by', async () => {
  const calls = new SharedCalls<string>();
  const { begun, run } = work();
  const stop = new AbortController();
  const first = calls.call('key', run);
  // its turn comes next, and it is given up before it does
  const leaver = calls.call('key', run, stop.signal);
  stop.abort(new UnpackError('CANCELLED', 'enough'));
  const later = calls.call('key', run);
  await assert.rejects(leaver, { code: 'CANCELLED' });
  const latest = calls.call('key', run);
  begun[0]?.resolve('old');
  await first;
  await settled();
  assert.equal(begun.length, 2);
  assert.equal(begun[1]?.signal.aborted, false);
  begun[1]?.resolve('new');
  assert.deepEqual(await Promise.all([later, latest]), ['new', 'new']);
});

test('work that was given up and does not end holds nobody up', async () => {
  const calls = new SharedCalls<string>();
  const { begun, run } = work();
  const stop = new AbortController();
  const first = calls.call('key', run, stop.signal);
  const second = calls.call('key', run);
  stop.abort(new UnpackError('TIMED_OUT', 'enough'));
  await assert.rejects(first, { code: 'TIMED_OUT' });
  await settled();
  assert.equal(begun.length, 2, 'the first work has not ended');
  begun[0]?.reject(new Error('much later'));
  begun[1]?.resolve('new');
  assert.equal(await second, 'new');
});

test('a call that is aborted before it is made begins nothing', async () => {
  const calls = new SharedCalls<string>();
  const { begun, run } = work();
  await assert.rejects(calls.call('key', run, AbortSignal.abort(new UnpackError('TIMED_OUT', 'no'))), {
    code: 'TIMED_OUT',
  });
  await settled();
  assert.equal(begun.length, 0);
});

test('callers that come again and again share all of their work, and are not split in two halves', async () => {
  const calls = new SharedCalls<string>();
  let works = 0;
  const work = async () => {
    works++;
    await sleep(1);
    return '';
  };
  const caller = async () => {
    for (let times = 0; times < 50; times++) {
      await calls.call('key', work);
      await nextTurn();
    }
  };
  await Promise.all([caller(), caller(), caller(), caller()]);
  // the first call comes alone, and on a busy machine somebody may be late now and then; two halves would take 100
  assert.ok(works >= 50 && works < 75, `${works} pieces of work for 4 times 50 calls`);
});

test('one who comes alone waits for nobody who came before', async () => {
  const calls = new SharedCalls<string>();
  const { begun, run } = work();
  const [first, second, third] = [calls.call('key', run), calls.call('key', run), calls.call('key', run)];
  begun[0]?.resolve('');
  await first;
  await settled();
  begun[1]?.resolve('');
  await Promise.all([second, third]);
  const alone = calls.call('key', run);
  assert.equal(begun.length, 2, 'two others may come');
  await settled();
  assert.equal(begun.length, 3);
  begun[2]?.resolve('');
  await alone;
  void calls.call('key', run);
  assert.equal(begun.length, 4, 'nobody else is expected any more');
});
