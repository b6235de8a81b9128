import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Slots } from '../../src/rootfs/slots.ts';

const nextTurn = () => new Promise((resolve) => setImmediate(resolve));
/** What most tests here need no order for. */
const SAME = { place: 0, weight: 1 };

/** Layers as they come: each of one job, with a size, and how many turns its work takes. */
const arrivals = fc.array(
  fc.record({ place: fc.nat(4), weight: fc.nat(5), turns: fc.nat(3), pause: fc.nat(2), aborted: fc.nat(9) }),
  { minLength: 1, maxLength: 30 },
);

describe('Slots', () => {
  it('begin no work while work of an earlier job waits, nor before larger work of the same job', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 3 }), arrivals, async (count, works) => {
        const slots = new Slots(count);
        const waiting = new Set<(typeof works)[number]>();
        let running = 0;
        const runs: Promise<unknown>[] = [];
        for (const work of works) {
          const abort = new AbortController();
          waiting.add(work);
          const run = slots.run(work, abort.signal, async () => {
            waiting.delete(work);
            assert.ok(++running <= count, `${running} at once`);
            for (const other of waiting) {
              assert.ok(other.place >= work.place, 'work of an earlier job waits');
              assert.ok(other.place > work.place || other.weight <= work.weight, 'larger work of the same job waits');
            }
            for (let turn = 0; turn < work.turns; turn++) await nextTurn();
            running--;
          });
          runs.push(run.catch((error) => assert.equal(error.code, 'INTERNAL')));
          if (work.aborted === 0 && waiting.delete(work)) abort.abort();
          for (let turn = 0; turn < work.pause; turn++) await nextTurn();
        }
        await Promise.all(runs);
        assert.deepEqual([running, waiting.size], [0, 0]);
      }),
    );
  });

  it('let a small layer of an early job go before a large one of a later job', async () => {
    const slots = new Slots(1);
    const order: string[] = [];
    const works = [
      ['early, large', { place: 0, weight: 9 }],
      ['late, huge', { place: 1, weight: 99 }],
      ['early, small', { place: 0, weight: 1 }],
      ['late, large', { place: 1, weight: 9 }],
      ['early, middling', { place: 0, weight: 5 }],
    ] as const;
    await Promise.all(works.map(([name, turn]) => slots.run(turn, undefined, async () => void order.push(name))));
    assert.deepEqual(order, ['early, large', 'early, middling', 'early, small', 'late, huge', 'late, large']);
  });

  it('let go at once of work that is told to stop while it waits', async () => {
    const slots = new Slots(1);
    const { promise, resolve } = Promise.withResolvers<void>();
    const first = slots.run(SAME, undefined, () => promise);
    const abort = new AbortController();
    const second = slots.run(SAME, abort.signal, async () => assert.fail('it was stopped before'));
    abort.abort();
    await assert.rejects(second, { code: 'INTERNAL' });
    resolve();
    await first;
    await slots.run(SAME, undefined, async () => {});
  });

  it('are free again after a failure', async () => {
    const slots = new Slots(1);
    await assert.rejects(slots.run(SAME, undefined, () => Promise.reject(new Error('no'))));
    assert.equal(await slots.run(SAME, undefined, async () => 'yes'), 'yes');
  });
});
