import { hostname } from 'node:os';
import { Command } from 'commander';
import { type Config, storePlace, storeToWrite, unpackSettings } from '../config.ts';
import type { ImageState } from '../image/progress.ts';
import type { ImageTarget } from '../image/request.ts';
import type { WantedImage } from '../image/unpack.ts';
import { parseImageName } from '../oci/image-name.ts';
import { measure } from '../queue/progress.ts';
import { resultOf } from '../queue/result.ts';
import type { ApplyThread } from '../rootfs/apply-thread.ts';
import { s3Connections } from '../s3-settings.ts';
import { CliError } from './explain-error.ts';
import { type ImageOptions, parseImageArgument, payloadOf, requestOf, takesImageOptions } from './image-argument.ts';
import { progressLines, resultLines } from './job-view.ts';
import { requireLayout } from './local-image.ts';
import { type Cli, LiveRegion } from './output.ts';
import {
  APPLY_SETTINGS,
  COLLECTOR_SETTINGS,
  configOf,
  S3_SETTINGS,
  STORE_SETTINGS,
  takesSettings,
} from './settings.ts';
import { checkTimelineName, type TimelineOption, takesTimeline, writeTimeline } from './timeline.ts';

/** Milliseconds between two updates of the progress on a terminal. */
const REDRAW = 100;

const EXAMPLES = `
Examples:
  unpackd apply ./layout:app --root /tmp/store
  unpackd apply s3://images/team/app:1.0 --s3-endpoint http://127.0.0.1:9000
  unpackd apply s3://registry:3.20 --layout distribution --repository library/alpine
  unpackd apply s3://images/team/app:1.0 --timeline why-slow.svg
  unpackd apply ./layout:app --snapshotter containerd --image registry.example.com/team/app:1.0
  unpackd apply s3://images/app@sha256:… --platform linux/arm64 --json | jq -r '.images[].chainId'`;

/**
 * `unpackd apply`: unpacks one image as a worker does, without a queue.
 * @param thread an apply thread that has already been started; it applies the first layer
 */
export function applyCommand({ signal, out }: Cli, thread: ApplyThread): Command {
  const command = new Command('apply')
    .description(
      'Unpacks an image into the store of this machine. IMAGE is s3://BUCKET/PREFIX or a folder with an OCI image layout, ' +
        'followed by :TAG or @DIGEST. A folder with one image needs neither.\nThe result has the same format as the result of a job (schemas/result.schema.json).',
    )
    .argument('<image>')
    .option('--json', 'print the result as one JSON document');
  takesTimeline(command);
  takesImageOptions(command).addHelpText('after', EXAMPLES);
  takesSettings(command, [
    ...STORE_SETTINGS,
    ...APPLY_SETTINGS,
    ...COLLECTOR_SETTINGS,
    ...S3_SETTINGS,
    'UNPACK_WORKER_NAME',
  ]);
  return command.action(async (argument: string, options: ImageOptions & TimelineOption) => {
    const config = configOf(command);
    checkTimelineName(options.timeline);
    requireName(options, config);
    const job = await jobOf(argument, options, config);
    const { image, labels } = job;
    const { openStore, storeFacts } = await import('../snapshots/open-store.ts');
    const { createUnpacker } = await import('../image/unpacker.ts');
    const started = Date.now();
    const region = new LiveRegion(out.live);
    let states: readonly ImageState[] | undefined;
    const redraw = setInterval(() => {
      const phase = states === undefined ? ('resolving' as const) : ('unpacking' as const);
      const fixed = { version: 1 as const, attempt: 1, attempts: 1, worker: '', failures: [], stallsBefore: 0 };
      region.draw(progressLines({ ...fixed, phase, ...measure(states ?? []) }, undefined, region.width));
    }, REDRAW);
    const place = storePlace(config);
    const snapshotter = await openStore(place, storeToWrite(config));
    const unpacker = createUnpacker(snapshotter, unpackSettings(config), { started: thread });
    try {
      const found = await unpacker.lookUp(job, { signal });
      const images = await unpacker.unpack(found, {
        labels,
        signal,
        onResolved: (images) => {
          states = images;
        },
      });
      clearInterval(redraw);
      region.clear();
      const facts = {
        worker: { name: config.UNPACK_WORKER_NAME, host: hostname() },
        store: storeFacts(snapshotter, place),
      };
      const result = resultOf(image, images, facts, { started, number: 1 });
      out.result(result, () => resultLines(result));
      if (options.timeline !== undefined) await writeTimeline(options.timeline, result);
    } finally {
      clearInterval(redraw);
      region.clear();
      await unpacker.close();
      await snapshotter.close();
    }
  });
}

/**
 * Refuses an image without a name, and a wrong name, if the image is recorded in containerd.
 * @throws CliError USAGE; UnpackError INVALID_JOB for a wrong name
 */
function requireName({ image }: ImageOptions, { UNPACK_SNAPSHOTTER: snapshotter }: Config): void {
  if (snapshotter !== 'containerd') return;
  if (image !== undefined) {
    parseImageName(image);
    return;
  }
  throw new CliError(
    'USAGE',
    'an image in containerd needs a name: write --image NAME, such as --image docker.io/library/alpine:3.20',
  );
}

/** The image of a layout, if the argument names only the layout. @throws UnpackError IMAGE_NOT_FOUND that lists its images */
async function onlyImage(path: string): Promise<ImageTarget> {
  const { openImageArchive } = await import('../push/image-archive.ts');
  const { chooseImage } = await import('../push/choose-image.ts');
  const archive = await openImageArchive(path);
  try {
    const { descriptor, name, made } = await chooseImage(archive, undefined, undefined);
    // several manifests have this name, so the platform selects one
    if (made !== undefined && name !== undefined) return { kind: 'tag', tag: name };
    return { kind: 'manifest', digest: descriptor.digest };
  } finally {
    await archive.close();
  }
}

/** What to unpack: the same fields that a worker gets from a payload. */
interface LocalJob extends WantedImage {
  readonly labels: Readonly<Record<string, string>>;
}

async function jobOf(argument: string, options: ImageOptions, config: Config): Promise<LocalJob> {
  const { place, target } = parseImageArgument(argument);
  if (place.kind === 's3') {
    const { parsePayload } = await import('../queue/parse-payload.ts');
    // the argument is parsed as a job's payload, so that an address has the same meaning; UNPACK_BUCKETS limits jobs, not this
    // command
    return parsePayload(payloadOf(argument, options), { ...s3Connections(config), buckets: [] });
  }
  requireLayout(place.path, argument);
  return {
    image: options.image ?? argument,
    source: { kind: 'oci-layout', path: place.path },
    request: requestOf(target ?? (await onlyImage(place.path)), options),
    labels: options.label ?? {},
  };
}
