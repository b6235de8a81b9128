import type { MessagePort } from 'node:worker_threads';
import { toUnpackError, UnpackError } from '../src/errors.ts';
import { applyBlob } from '../src/rootfs/apply-blob.ts';
import type { ApplyMessage, ApplyOutcome, ApplyTask } from '../src/rootfs/apply-task.ts';
import { openLent } from '../src/source/open-lent.ts';

/** Milliseconds between two reports of progress. */
const REPORT_INTERVAL = 50;

/** The apply thread: one layer at a time. Piscina wants it as the default export. */
export default async function apply(task: ApplyTask): Promise<ApplyOutcome> {
  const port: MessagePort = task.port;
  const abort = new AbortController();
  port.on('message', (message: ApplyMessage) => abort.abort(UnpackError.deserialize(message.abort)));
  let reported = 0;
  try {
    const diff = await applyBlob({
      source: openLent(task.source),
      blob: task.blob,
      target: task.target,
      algorithm: task.algorithm,
      limits: task.limits,
      native: task.native,
      signal: abort.signal,
      onProgress: (progress) => {
        const now = performance.now();
        if (now - reported < REPORT_INTERVAL) return;
        reported = now;
        port.postMessage(progress);
      },
    });
    return { diff };
  } catch (error) {
    // a class does not survive the way between threads
    return { error: toUnpackError(error).serialize() };
  } finally {
    port.close();
  }
}
