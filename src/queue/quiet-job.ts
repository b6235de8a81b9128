import { shortDigest } from '../oci/digest.ts';
import { bytesText, count, durationText } from '../units.ts';
import type { Progress } from './progress.ts';
import { resultSchema, type UnpackResult } from './result-schema.ts';

/**
 * A job whose image is there ends within a millisecond, and writes nothing into Redis but its result: log and progress
 * would be ten commands, nine tenths of what it costs (measured). Both follow from the result, and are made of it here for
 * whoever asks.
 */

/** What there is to say of it. */
export function quietSentence({ images, attempts, worker, durationMs }: UnpackResult): string {
  const each = images.map(({ platform, manifestDigest, chainId, layers }) => {
    const digest = manifestDigest ?? chainId;
    const name = [platform, digest && shortDigest(digest)].filter((part) => part !== undefined).join(', ');
    if (layers.length === 0) return `${name} has no layers, so there was nothing to unpack`;
    const size = bytesText(layers.reduce((sum, { compressedBytes }) => sum + compressedBytes, 0));
    return `all ${count(layers.length, 'layer')} of ${name} (${size}) were there already`;
  });
  return `completed in ${durationText(durationMs)}, attempt ${attempts} on ${worker.name}: ${each.join(' and ')}`;
}

/** The lines that the log of a completed job without any would have; none for what is no result. */
export function quietLog(returnvalue: unknown, finished: Date): string[] {
  const { data: result } = resultSchema.safeParse(returnvalue);
  if (result === undefined) return [];
  const sentences = [...result.warnings.map((warning) => `WARN ${warning}`), quietSentence(result)];
  return sentences.map((sentence) => `${finished.toISOString()} ${sentence}`);
}

/** The progress that a completed job without any would have. @returns `undefined` for what is no result */
export function quietProgress(returnvalue: unknown): Progress | undefined {
  const { data: result } = resultSchema.safeParse(returnvalue);
  return result && progressOf(result);
}

function progressOf({ images, attempts, worker }: UnpackResult): Progress {
  const layers = images.flatMap((image) => image.layers);
  return {
    version: 1,
    phase: 'completed',
    attempt: attempts,
    attempts,
    worker: worker.name,
    layersDone: layers.length,
    layersTotal: layers.length,
    bytesFetched: 0,
    bytesTotal: 0,
    bytesUnpacked: 0,
    images: images.map(({ platform, manifestDigest, chainId, layers }) => ({
      ...(platform === undefined ? {} : { platform }),
      ...(manifestDigest === undefined ? {} : { manifestDigest }),
      ...(chainId === undefined ? {} : { chainId }),
      layers: layers.map(({ chainId, compressedBytes }) => ({
        chainId,
        phase: 'existed' as const,
        size: compressedBytes,
        fetched: 0,
        unpacked: 0,
      })),
    })),
    failures: [],
    stallsBefore: 0,
  };
}
