import type { ImageState } from '../image/progress.ts';
import type { Failure } from './failure.ts';
import type { Progress, WaitingFor } from './progress-schema.ts';

export type { Progress, WaitingFor };

const FAILURES_KEPT = 20;

export function withFailure(failures: readonly Failure[], failure: Failure): Failure[] {
  return [...failures, failure].slice(-FAILURES_KEPT);
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
