import type { LayerState } from '../image/progress.ts';
import type { UnpackedImage } from '../image/unpack.ts';
import type { AppliedLayer, UnpackResult } from './formats.ts';

/** Makes the result of a job from unpacked images. The processor, the fast path and `unpackd apply` call it. */

/** The worker and its store: the fields of a result that are the same for all its jobs. */
export interface WorkerFacts {
  readonly worker: UnpackResult['worker'];
  readonly store: UnpackResult['store'];
}

export function resultOf(
  image: string,
  images: readonly UnpackedImage[],
  facts: WorkerFacts,
  attempt: { readonly started: number; readonly number: number; readonly applied?: readonly AppliedLayer[] },
): UnpackResult {
  return {
    version: 1,
    image,
    images: imageResults(images, attempt.applied),
    ...facts,
    startedAt: new Date(attempt.started).toISOString(),
    durationMs: Date.now() - attempt.started,
    attempts: attempt.number,
    warnings: warningsOf(images),
  };
}

/** The warnings of a result, each once, because images for several platforms share documents. */
export function warningsOf(images: readonly UnpackedImage[]): string[] {
  return [...new Set(images.flatMap((one) => one.warnings))];
}

/**
 * The images of a result, one for each platform.
 * @param applied layers that earlier runs of the attempt have applied; for the last run they existed
 */
export function imageResults(
  images: readonly UnpackedImage[],
  applied: readonly AppliedLayer[] = [],
): UnpackResult['images'] {
  const before = new Map(applied.map((layer) => [layer.chainId, layer]));
  return images.map(({ platform, manifestDigest, configDigest, chainId, durable, names, config, mounts, layers }) => ({
    ...(platform === undefined ? {} : { platform }),
    ...(manifestDigest === undefined ? {} : { manifestDigest }),
    ...(configDigest === undefined ? {} : { configDigest }),
    ...(chainId === undefined ? {} : { chainId }),
    durable,
    ...(names.length === 0 ? {} : { names }),
    ...(config === undefined ? {} : { config }),
    mounts: mounts.map(({ type, source, options }) => ({ type, source, options: [...options] })),
    layers: layers.map((layer) => layerResult(layer, before.get(layer.chainId))),
  }));
}

function layerResult(
  layer: LayerState,
  before: AppliedLayer | undefined,
): UnpackResult['images'][number]['layers'][number] {
  const { diffId, chainId, blobDigest, size, phase, unpacked, entries, timings, timeline } = layer;
  const same = { diffId, chainId, blobDigest, compressedBytes: size };
  if (phase !== 'applied') return before === undefined ? { ...same, state: 'existed' } : appliedEarlier(same, before);
  return {
    ...same,
    state: 'applied',
    uncompressedBytes: unpacked,
    entries,
    ...(timings === undefined ? {} : { timings }),
    ...(timeline === undefined ? {} : { timeline }),
  };
}

function appliedEarlier(
  same: Pick<UnpackResult['images'][number]['layers'][number], 'diffId' | 'chainId' | 'blobDigest' | 'compressedBytes'>,
  { uncompressedBytes, entries, timings }: AppliedLayer,
): UnpackResult['images'][number]['layers'][number] {
  const measured = timings === undefined ? {} : { timings };
  return { ...same, state: 'applied', uncompressedBytes, entries, ...measured };
}
