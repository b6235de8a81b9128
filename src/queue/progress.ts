import type { ImageState } from '../image/progress.ts';
import type { Failure } from './failure.ts';
import type { AppliedLayer, Progress, WaitingFor } from './progress-schema.ts';

export type { AppliedLayer, Progress, WaitingFor };

const FAILURES_KEPT = 20;

export function withFailure(failures: readonly Failure[], failure: Failure): Failure[] {
  return [...failures, failure].slice(-FAILURES_KEPT);
}

/** The layers that the attempt `number` has applied in earlier runs, which gave the job back. */
export function appliedBefore(earlier: Progress | undefined, number: number): readonly AppliedLayer[] {
  return isSameAttempt(earlier, number) ? (earlier.applied ?? []) : [];
}

/** Whether `earlier` was written by another run of the attempt `number`: giving a job back counts no attempt. */
export function isSameAttempt(earlier: Progress | undefined, number: number): earlier is Progress {
  return earlier !== undefined && earlier.attempt === number && earlier.phase !== 'failed';
}

/** Those of `before`, and what has been applied since: a layer that was removed and applied again counts once. */
export function withApplied(before: readonly AppliedLayer[], states: readonly ImageState[]): AppliedLayer[] {
  const applied = new Map(before.map((layer) => [layer.chainId, layer]));
  for (const { chainId, phase, unpacked, entries, timings } of states.flatMap((state) => state.layers)) {
    if (phase !== 'applied') continue;
    const measured = timings === undefined ? {} : { timings };
    applied.set(chainId, { chainId, uncompressedBytes: unpacked, entries, ...measured });
  }
  return [...applied.values()];
}

/** Sums and states of the images as they are now. */
export function measure(
  states: readonly ImageState[],
): Pick<Progress, 'layersDone' | 'layersTotal' | 'bytesFetched' | 'bytesTotal' | 'bytesUnpacked' | 'images'> {
  const layers = states.flatMap((state) => state.layers);
  const fetching = layers.filter((layer) => layer.phase !== 'existed');
  return {
    layersDone: layers.filter(({ phase }) => phase === 'applied' || phase === 'existed').length,
    layersTotal: layers.length,
    bytesFetched: fetching.reduce((sum, layer) => sum + layer.fetched, 0),
    bytesTotal: fetching.reduce((sum, layer) => sum + layer.size, 0),
    bytesUnpacked: fetching.reduce((sum, layer) => sum + layer.unpacked, 0),
    images: states.map((state) => ({
      ...(state.platform === undefined ? {} : { platform: state.platform }),
      ...(state.manifestDigest === undefined ? {} : { manifestDigest: state.manifestDigest }),
      ...(state.chainId === undefined ? {} : { chainId: state.chainId }),
      layers: state.layers.map(({ chainId, phase, size, fetched, unpacked }) => ({
        chainId,
        phase,
        size,
        fetched,
        unpacked,
      })),
    })),
  };
}
