import { shortDigest } from '../oci/digest.ts';
import type { UnpackResult } from '../queue/result.ts';
import { bytesText, durationText } from '../queue/text.ts';

import { type Cell, columns } from './table.ts';

/** A result for a person: a table of the layers and where the tree is now. */
export function resultLines(result: UnpackResult): string[] {
  const attempts = result.attempts > 1 ? ` in attempt ${result.attempts}` : '';
  return [
    ...result.images.flatMap((image) => [
      `${[result.image, image.platform, image.manifestDigest && shortDigest(image.manifestDigest)].filter(Boolean).join('  ')}`,
      ...(image.chainId === undefined
        ? ['  no layers, so there is nothing to unpack and no chain ID']
        : [...layerTable(image).map((line) => `  ${line}`), `  chain ID ${image.chainId}`]),
    ]),
    `done in ${durationText(result.durationMs)}${attempts} by ${result.worker.name}`,
    `store ${result.store.root} (${result.store.snapshotter})`,
    ...result.warnings.map((warning) => `warning: ${warning}`),
  ];
}

function layerTable(image: UnpackResult['images'][number]): string[] {
  const titles = ['LAYER', 'STATE', 'BLOB', 'TAR', 'ENTRIES', 'FETCH', 'INFLATE', 'WRITE', 'TOTAL', 'DIFF ID'];
  const time = (milliseconds: number | undefined) => (milliseconds === undefined ? '' : durationText(milliseconds));
  const rows = image.layers.map((layer, index): Cell[] => [
    index + 1,
    layer.state,
    bytesText(layer.compressedBytes),
    layer.uncompressedBytes === undefined ? '' : bytesText(layer.uncompressedBytes),
    layer.entries === undefined ? '' : layer.entries.toLocaleString('en-US'),
    time(layer.timings?.fetchMs),
    time(layer.timings?.decompressMs),
    time(layer.timings?.writeMs),
    time(layer.timings?.totalMs),
    shortDigest(layer.diffId),
  ]);
  return columns(titles, rows, ['LAYER', 'BLOB', 'TAR', 'ENTRIES', 'FETCH', 'INFLATE', 'WRITE', 'TOTAL']);
}
