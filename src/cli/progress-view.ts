import { shortDigest } from '../oci/digest.ts';
import type { Progress, WaitingFor } from '../queue/progress.ts';
import { bytesText } from '../queue/text.ts';
import { waitingSentence } from '../queue/waiting.ts';

const BAR = 24;

/** A job's progress as lines for a terminal: a sum, then a line for each layer, bottom-most first. */
export function progressLines(progress: Progress): string[] {
  const { attempt, attempts, layersDone, layersTotal, bytesFetched, bytesTotal } = progress;
  if (progress.waiting !== undefined) return [waitingText(progress.waiting)];
  const tries = attempt > 1 ? `, attempt ${attempt} of ${attempts}` : '';
  if (progress.phase === 'resolving') return [`looking for the image${tries}`];
  const sum = `${layersDone} of ${layersTotal} layers, ${bytesText(bytesFetched)} of ${bytesText(bytesTotal)}${tries}`;
  return [
    sum,
    ...progress.images.flatMap((image) => [
      ...(progress.images.length > 1
        ? [`${image.platform ?? shortDigest(image.chainId ?? image.manifestDigest ?? 'image')}`]
        : []),
      ...image.layers.map((layer, index) => {
        const fetched = layer.phase === 'existed' ? layer.size : layer.fetched;
        const number = String(index + 1).padStart(String(image.layers.length).length);
        const size = bytesText(layer.size).padStart(10);
        return `  ${number}  ${bar(fetched, layer.size)} ${size}  ${layer.phase.padEnd(10)}  ${shortDigest(layer.chainId)}`;
      }),
    ]),
  ];
}

/** What a job that has given its slot back waits for, and since when. */
function waitingText(waiting: WaitingFor): string {
  const [since, until] = [waiting.since, waiting.until].map((time) => new Date(time).toISOString());
  return `${waitingSentence(waiting)}; it has waited since ${since}, and is looked at again at ${until} or when the layer is free`;
}

function bar(done: number, of: number): string {
  const filled = of === 0 ? BAR : Math.min(BAR, Math.floor((done / of) * BAR));
  return `[${'#'.repeat(filled)}${'.'.repeat(BAR - filled)}]`;
}
