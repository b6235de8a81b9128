import type { ImageState } from '../image/progress.ts';
import type { AppliedLayer, Failure, Progress } from './formats.ts';

/** What the reporter writes as the progress of a job, and what a later run of the attempt reads from it. */

/** Maximum number of failures on the progress. */
const FAILURES_KEPT = 20;

export function withFailure(failures: readonly Failure[], failure: Failure): Failure[] {
  return [...failures, failure].slice(-FAILURES_KEPT);
}

/** The layers that earlier runs of the attempt `number` have applied. */
export function appliedBefore(earlier: Progress | undefined, number: number): readonly AppliedLayer[] {
  return isSameAttempt(earlier, number) ? (earlier.applied ?? []) : [];
}

/** Whether an earlier run of the same attempt wrote `earlier`. An attempt has several runs if its job was given back. */
export function isSameAttempt(earlier: Progress | undefined, number: number): earlier is Progress {
  return earlier !== undefined && earlier.attempt === number && earlier.phase !== 'failed';
}

/**
 * The progress that an earlier run wrote, for attempt `number`. After a retry by hand the attempts are counted anew, and so are
 * the returns because of a faulty store.
 */
export function progressBefore(earlier: Progress | undefined, number: number): Progress | undefined {
  const isRetriedByHand = earlier?.phase === 'failed' && earlier.attempt >= number;
  if (!isRetriedByHand) return earlier;
  const { storeFaults: _, ...rest } = earlier;
  return rest;
}

/** The applied layers of earlier runs and of this run. A layer that was applied twice is in the list once. */
export function withApplied(before: readonly AppliedLayer[], states: readonly ImageState[]): AppliedLayer[] {
  const applied = new Map(before.map((layer) => [layer.chainId, layer]));
  for (const { chainId, phase, unpacked, entries, timings } of states.flatMap((state) => state.layers)) {
    if (phase !== 'applied') continue;
    const measured = timings === undefined ? {} : { timings };
    applied.set(chainId, { chainId, uncompressedBytes: unpacked, entries, ...measured });
  }
  return [...applied.values()];
}

/** The fields of the progress that follow from the current states of the images. */
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
      layers: state.layers.map(({ chainId, phase, step, size, fetched, unpacked }) => ({
        chainId,
        phase,
        ...(step === undefined ? {} : { step }),
        size,
        fetched,
        unpacked,
      })),
    })),
  };
}
