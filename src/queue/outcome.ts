import { UnrecoverableError } from 'bullmq';
import type { UnpackError } from '../errors.ts';
import type { ImageState } from '../image/progress.ts';
import { shortDigest } from '../oci/digest.ts';
import { type Failure, failedReason } from './failure.ts';
import type { UnpackResult } from './result-schema.ts';
import { bytesText, count, durationText } from './text.ts';

/** What an attempt came to: in sentences for the logs, and as the error by which BullMQ is told. */

/**
 * The error that BullMQ stores. Its stack is what the board shows under the reason: where the message says it all, that
 * is only the cause, and the place in the code where nobody foresaw the failure.
 */
export function thrownFor(failure: Failure, error: UnpackError): Error {
  const reason = failedReason(failure);
  const thrown = failure.retryable ? new Error(reason) : new UnrecoverableError(reason);
  const cause = error.cause instanceof Error ? error.cause : undefined;
  const head = `attempt ${failure.attempt} of ${failure.attempts}, ${failure.at}\n${reason}`;
  let more = '';
  if (error.code === 'INTERNAL') more = `${cause?.stack ?? error.stack ?? ''}\n`;
  else if (cause !== undefined && !error.message.includes(cause.message))
    more = `caused by ${cause.name}: ${cause.message}\n`;
  thrown.stack = `${head}\n${more}`;
  return thrown;
}

export function resolvedSentence({ platform, manifestDigest, layers }: ImageState): string {
  const size = bytesText(layers.reduce((sum, layer) => sum + layer.size, 0));
  const what = [platform, manifestDigest === undefined ? undefined : shortDigest(manifestDigest)].filter(
    (part) => part !== undefined,
  );
  return `image resolved${what.length === 0 ? '' : ` (${what.join(', ')})`}: ${count(layers.length, 'layer')}, ${size}`;
}

export function completedSentence({ images, durationMs }: UnpackResult): string {
  const layers = images.flatMap((image) => image.layers);
  const applied = layers.filter((layer) => layer.state === 'applied').length;
  return `completed in ${durationText(durationMs)}: ${count(applied, 'layer')} applied, ${layers.length - applied} existed`;
}

export function failedSentence(failure: Failure, last: boolean): string {
  const next = last ? (failure.retryable ? 'no attempt is left' : 'it is not tried again') : 'it is tried again';
  return `attempt ${failure.attempt} of ${failure.attempts} failed, ${next}: ${failedReason(failure)}`;
}

/** A wish is no fault: the end of a job that somebody asked for is no error in a log. */
export function failedLevel(failure: Failure, last: boolean): 'info' | 'warn' | 'error' {
  if (failure.code === 'CANCELLED') return 'info';
  return last ? 'error' : 'warn';
}
