import { flushCompileCache } from 'node:module';
import { parentPort, workerData } from 'node:worker_threads';
import { openSnapshotter, type StoreOptions } from '../src/snapshots/open.ts';
import type { Snapshotter } from '../src/snapshots/snapshotter.ts';
import { type StoreAnswer, type StoreCall, serializeError } from '../src/snapshots/store-messages.ts';

/** The store's thread: opens the store and does what src/snapshots/store-thread.ts asks of it, until that is `close`. */
const opening = openSnapshotter(workerData as StoreOptions); // store-thread.ts gives it

opening.then(
  ({ root, type, rebase, ownership, overlayXattrs }) => {
    answer({ open: { root, type, rebase, ownership, overlayXattrs } });
    parentPort?.on('message', (call: StoreCall) => void take(call));
  },
  (error: unknown) => {
    answer({ refused: serializeError(error) });
    flushCompileCache();
  },
);

async function take({ id, method, args }: StoreCall): Promise<void> {
  try {
    const store = await opening;
    // `as`: the message pairs the method with its arguments, which the compiler forgets when it takes them apart
    const call = store[method] as (this: Snapshotter, ...args: StoreCall['args']) => Promise<unknown>;
    answer({ id, value: await call.apply(store, args) });
  } catch (error) {
    answer({ id, error: serializeError(error) });
  }
  if (method !== 'close') return;
  // Node does so by itself when a thread ends, unless the process is faster
  flushCompileCache();
  parentPort?.close();
}

function answer(message: StoreAnswer): void {
  parentPort?.postMessage(message);
}
