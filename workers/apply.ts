import { availableParallelism } from 'node:os';
import { parentPort } from 'node:worker_threads';
import { toUnpackError, UnpackError } from '../src/errors.ts';
import { applyBlob } from '../src/rootfs/apply-blob.ts';
import type { ApplyMessage, ApplyOutcome, ApplyReport, ApplyTask } from '../src/rootfs/apply-task.ts';
import { openLent } from '../src/source/open-lent.ts';

const CORES = availableParallelism();

/** Milliseconds between two reports of progress. */
const REPORT_INTERVAL = 50;

/** The apply thread: one layer at a time, as src/rootfs/apply-thread.ts tells it. */
let running = new AbortController();

parentPort?.on('message', async (message: ApplyMessage) => {
  if ('end' in message) process.exit();
  else if ('abort' in message) running.abort(UnpackError.deserialize(message.abort));
  else report({ outcome: await apply(message.task) });
});

async function apply(task: ApplyTask): Promise<ApplyOutcome> {
  running = new AbortController();
  let reported = 0;
  try {
    const diff = await applyBlob({
      source: openLent(task.source),
      blob: task.blob,
      target: task.target,
      known: task.known,
      algorithm: task.algorithm,
      limits: task.limits,
      native: task.native,
      busy: () => Atomics.load(task.writing, 0) >= CORES,
      signal: running.signal,
      onProgress: (progress) => {
        const now = performance.now();
        if (now - reported < REPORT_INTERVAL) return;
        reported = now;
        report({ progress });
      },
    });
    return { diff };
  } catch (error) {
    // a class does not survive the way between threads
    return { error: toUnpackError(error).serialize() };
  }
}

function report(message: ApplyReport): void {
  parentPort?.postMessage(message);
}
