import { flushCompileCache } from 'node:module';
import { parentPort, workerData } from 'node:worker_threads';
import { openSnapshotter, type StoreOptions } from '../src/snapshots/open.ts';
import type { OwnStore } from '../src/snapshots/store.ts';
import { type StoreAnswer, type StoreCall, serializeError } from '../src/snapshots/store-messages.ts';

/** The store's thread: opens the store and executes the calls of src/snapshots/store-thread.ts, until `close`. */
const opening = openSnapshotter(workerData as StoreOptions); // `as`: store-thread.ts passes the options

opening.then(
  ({ root, type, rebase, durable, ownership, overlayXattrs }) => {
    answer({ open: { root, type, rebase, durable, ownership, overlayXattrs } });
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
    // `as`: the compiler cannot see that `args` are the arguments of `method`
    const call = store[method] as (this: OwnStore, ...args: StoreCall['args']) => Promise<unknown>;
    answer({ id, value: await call.apply(store, args) });
  } catch (error) {
    answer({ id, error: serializeError(error) });
  }
  if (method !== 'close') return;
  // Node writes the cache when a thread exits, but the process can exit before that
  flushCompileCache();
  parentPort?.close();
}

function answer(message: StoreAnswer): void {
  parentPort?.postMessage(message);
}
