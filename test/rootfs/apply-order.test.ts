import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { ApplyOrder } from '../../src/rootfs/apply-order.ts';

const MB = 1 << 20;

describe('ApplyOrder', () => {
  it('lets no layer ask before a larger one', async () => {
    const layers = fc.array(fc.record({ size: fc.nat(9), pause: fc.nat(2) }), { maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(layers, async (all) => {
        const order = new ApplyOrder(all.map(({ size }, index) => [index, size * 2 * MB]));
        const asked: number[] = [];
        const turns: Promise<unknown>[] = [];
        for (const [index, { size, pause }] of [...all.entries()].reverse()) {
          turns.push(order.turn(index, undefined).then(() => asked.push(size)));
          for (let turn = 0; turn < pause; turn++) await nextTurn();
        }
        await Promise.all(turns);
        assert.deepEqual(
          asked,
          all.map(({ size }) => size).sort((one, other) => other - one),
        );
      }),
    );
  });

  it('waits neither for a layer that has left nor for those below it', async () => {
    const order = new ApplyOrder([
      [0, 9 * MB],
      [1, 5 * MB],
      [2, 0],
    ]);
    let hasAsked = false;
    const small = order.turn(2, undefined).then(() => {
      hasAsked = true;
    });
    await nextTurn();
    assert.equal(hasAsked, false);
    order.leave(1);
    await small;
  });

  it('does not delay layers of about the same size', async () => {
    const order = new ApplyOrder([
      [0, 2 * MB],
      [1, MB],
    ]);
    await order.turn(1, undefined);
  });

  it('ends the wait with the reason of the signal', async () => {
    const order = new ApplyOrder([
      [0, 9 * MB],
      [1, 0],
    ]);
    const abort = new AbortController();
    const waiting = order.turn(1, abort.signal);
    abort.abort();
    await assert.rejects(waiting, { code: 'INTERNAL' });
  });
});
