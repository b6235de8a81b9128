import type { LayerState } from '../image/progress.ts';
import type { UnpackedImage } from '../image/unpack.ts';
import type { UnpackResult } from './result-schema.ts';

export type { UnpackResult };

/** Who did the work: what a result says besides the images. */
export interface WorkerFacts {
  readonly worker: UnpackResult['worker'];
  readonly store: UnpackResult['store'];
}

export function resultOf(
  image: string,
  images: readonly UnpackedImage[],
  facts: WorkerFacts,
  attempt: { readonly started: number; readonly number: number },
): UnpackResult {
  return {
    version: 1,
    image,
    images: imageResults(images),
    ...facts,
    startedAt: new Date(attempt.started).toISOString(),
    durationMs: Date.now() - attempt.started,
    attempts: attempt.number,
    warnings: warningsOf(images),
  };
}

/** The warnings of a result, each once: images for several platforms share documents. */
export function warningsOf(images: readonly UnpackedImage[]): string[] {
  return [...new Set(images.flatMap((one) => one.warnings))];
}

/** The images of a result, one for each platform. */
export function imageResults(images: readonly UnpackedImage[]): UnpackResult['images'] {
  return images.map(({ platform, manifestDigest, configDigest, chainId, layers }) => ({
    ...(platform === undefined ? {} : { platform }),
    ...(manifestDigest === undefined ? {} : { manifestDigest }),
    ...(configDigest === undefined ? {} : { configDigest }),
    ...(chainId === undefined ? {} : { chainId }),
    layers: layers.map(layerResult),
  }));
}

function layerResult(layer: LayerState): UnpackResult['images'][number]['layers'][number] {
  const { diffId, chainId, blobDigest, size, phase, unpacked, entries, timings, timeline } = layer;
  const same = { diffId, chainId, blobDigest, compressedBytes: size };
  if (phase !== 'applied') return { ...same, state: 'existed' };
  return {
    ...same,
    state: 'applied',
    uncompressedBytes: unpacked,
    entries,
    ...(timings === undefined ? {} : { timings }),
    ...(timeline === undefined ? {} : { timeline }),
  };
}
