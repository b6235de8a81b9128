import { flushCompileCache } from 'node:module';
import { availableParallelism } from 'node:os';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { throwIfAborted, toUnpackError, UnpackError } from '../src/errors.ts';
import { applyBlob } from '../src/rootfs/apply-blob.ts';
import type { ApplyMessage, ApplyOutcome, ApplyReport, ApplyTask } from '../src/rootfs/apply-task.ts';
import { openLent } from '../src/source/open-lent.ts';
import { windowOf } from '../src/source/range-reader.ts';
import type { HttpRequestSpec, SignatureRefusal } from '../src/source/source-spec.ts';

const CORES = availableParallelism();

/** Milliseconds between two reports of progress. */
const REPORT_INTERVAL = 50;

/** Not 0 when a message must not wait until the piece of the archive in hand is written. */
const urgent = workerData as Int32Array<SharedArrayBuffer>; // src/rootfs/apply-thread.ts gives it

/** The apply thread: one layer at a time, as src/rootfs/apply-thread.ts tells it. */
let running = new AbortController();

/** Who waits for another permission to read the blob. */
let renewing: ((renewed: Extract<ApplyMessage, { renewed: unknown }>['renewed']) => void) | undefined;

parentPort?.on('message', take);

function take(message: ApplyMessage): void {
  if ('end' in message) end();
  else if ('renewed' in message) renewing?.(message.renewed);
  else if ('abort' in message) running.abort(UnpackError.deserialize(message.abort));
  else void apply(message.task).then((outcome) => report({ outcome }));
}

function end(): void {
  // Node does so by itself when a thread ends, unless the process is faster
  flushCompileCache();
  process.exit();
}

/** Takes what waits on the port within the work: one look at a number where nothing does. */
function checkpoint(): void {
  if (Atomics.load(urgent, 0) === 0 || parentPort === null) return;
  Atomics.store(urgent, 0, 0);
  for (let next = receiveMessageOnPort(parentPort); next !== undefined; next = receiveMessageOnPort(parentPort)) {
    take(next.message);
  }
  throwIfAborted(running.signal);
}

async function apply(task: ApplyTask): Promise<ApplyOutcome> {
  running = new AbortController();
  let reported = 0;
  try {
    const diff = await applyBlob({
      source: openLent(task.source, () => windowOf(Atomics.load(task.writing, 0)), renew),
      blob: task.blob,
      target: task.target,
      findings: task.findings,
      diffId: task.diffId,
      limits: task.limits,
      native: task.native,
      busy: () => Atomics.load(task.writing, 0) >= CORES,
      signal: running.signal,
      checkpoint,
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

/** Another permission from the main thread, which has the credentials. */
function renew(refused: SignatureRefusal): Promise<HttpRequestSpec> {
  return new Promise((resolve, reject) => {
    renewing = (renewed) => {
      renewing = undefined;
      if ('spec' in renewed) resolve(renewed.spec);
      else reject(UnpackError.deserialize(renewed.error));
    };
    report({ refused });
  });
}

function report(message: ApplyReport): void {
  parentPort?.postMessage(message);
}
