import { flushCompileCache } from 'node:module';
import { availableParallelism } from 'node:os';
import { parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { throwIfAborted, toUnpackError, UnpackError } from '../src/errors.ts';
import { windowOf } from '../src/http/connection-plan.ts';
import { applyBlob } from '../src/rootfs/apply-blob.ts';
import type { ApplyMessage, ApplyOutcome, ApplyReport, ApplyTask } from '../src/rootfs/apply-thread.ts';
import { GrantedBlobs } from '../src/source/granted-blobs.ts';
import type { SignatureRefusal, SignedUrl } from '../src/source/source-spec.ts';

const CORES = availableParallelism();

/** Milliseconds between two reports of progress. */
const REPORT_INTERVAL = 50;

/**
 * The apply thread: applies one layer at a time. `ApplyThread` (src/rootfs/apply-thread.ts) starts it and sends its messages.
 */

/** Not 0 while a message is pending that must be read before the current piece of the archive is written. */
const urgent = workerData as Int32Array<SharedArrayBuffer>; // ApplyThread passes nothing else

/** Keeps connections and buffers for the next task. */
const granted = new GrantedBlobs();

/** Aborts the current task. */
let running = new AbortController();

/** Settles the pending request for a new URL or signature, if there is one. */
let renewing: ((renewed: Extract<ApplyMessage, { renewed: unknown }>['renewed']) => void) | undefined;

parentPort?.on('message', take);

function take(message: ApplyMessage): void {
  if ('end' in message) end();
  else if ('renewed' in message) renewing?.(message.renewed);
  else if ('abort' in message) running.abort(UnpackError.deserialize(message.abort));
  else void apply(message.task).then((outcome) => report({ outcome }));
}

function end(): void {
  granted.close();
  // Node flushes when a thread exits, but not if the process exits first
  flushCompileCache();
  process.exit();
}

/** Handles messages in the middle of a task, which blocks the event loop. Without a message it costs one atomic load. */
function checkpoint(): void {
  if (Atomics.load(urgent, 0) === 0 || parentPort === null) return;
  Atomics.store(urgent, 0, 0);
  for (let next = receiveMessageOnPort(parentPort); next !== undefined; next = receiveMessageOnPort(parentPort)) {
    take(next.message);
  }
  throwIfAborted(running.signal);
}

async function apply({ source, layer, settings, writing, resumes }: ApplyTask): Promise<ApplyOutcome> {
  running = new AbortController();
  let reported = 0;
  try {
    const blobs = granted.open(source, () => windowOf(Atomics.load(writing, 0)), renew);
    const diff = await applyBlob(blobs, layer, settings, {
      busy: () => Atomics.load(writing, 0) >= CORES,
      signal: running.signal,
      checkpoint,
      onProgress: (progress) => {
        const now = performance.now();
        if (now - reported < REPORT_INTERVAL) return;
        reported = now;
        report({ progress });
      },
      onResume: () => Atomics.add(resumes, 0, 1),
    });
    return { diff };
  } catch (error) {
    // structured cloning loses the class
    return { error: toUnpackError(error).serialize() };
  }
}

/** Requests a new URL or signature from the main thread, which has the credentials. */
function renew(refused: SignatureRefusal): Promise<SignedUrl> {
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
