import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Slots } from '../../src/rootfs/slots.ts';

describe('Slots', () => {
  it('run no more at once than there are, and the heaviest of those that wait first', async () => {
    const slots = new Slots(1);
    const order: number[] = [];
    let running = 0;
    await Promise.all(
      [3, 1, 9, 5].map((weight) =>
        slots.run(weight, undefined, async () => {
          running++;
          assert.equal(running, 1);
          await new Promise((resolve) => setImmediate(resolve));
          order.push(weight);
          running--;
        }),
      ),
    );
    assert.deepEqual(order, [3, 9, 5, 1]);
  });

  it('let go at once of work that is told to stop while it waits', async () => {
    const slots = new Slots(1);
    const { promise, resolve } = Promise.withResolvers<void>();
    const first = slots.run(1, undefined, () => promise);
    const abort = new AbortController();
    const second = slots.run(1, abort.signal, async () => assert.fail('it was stopped before'));
    abort.abort();
    await assert.rejects(second, { code: 'CANCELLED' });
    resolve();
    await first;
    await slots.run(1, undefined, async () => {});
  });

  it('are free again after a failure', async () => {
    const slots = new Slots(1);
    await assert.rejects(slots.run(1, undefined, () => Promise.reject(new Error('no'))));
    assert.equal(await slots.run(1, undefined, async () => 'yes'), 'yes');
  });
});
