import type { Command } from 'commander';
import { ownStorePlace } from '../config.ts';
import { formatPlatform, hostPlatform, runsOn } from '../oci/platform.ts';
import { printable } from '../printable.ts';
import type { ImageRecord } from '../snapshots/images.ts';
import { count } from '../units.ts';
import { CliError } from './explain-error.ts';
import { type FoundImages, findImages, isImageWith, isOfRepository, nameWithDigest, shown } from './find-image.ts';
import type { Cli } from './output.ts';
import { configOf } from './settings.ts';

/** `unpackd images register`: makes an image of our own store known to containerd (`src/proxy/register.ts`). */

interface Options {
  readonly name?: string;
  readonly platform?: string;
  readonly proxy: string;
}

const NOTES = `
containerd must use this store: unpackd snapshotter runs, and [proxy_plugins.unpackd] is in the config.toml of containerd.

Examples:
  unpackd images register s3://images/team/app:1.0 --name registry.example.com/team/app:1.0
  unpackd images register registry.example.com/app:1.0 --containerd-namespace default
  unpackd images register registry.example.com/app@sha256:…
  ctr run --rm --snapshotter unpackd registry.example.com/app:1.0 test`;

/** @param command with the settings of the store, and the argument and options that `images register` shares with others */
export function addRegister(command: Command, { out }: Cli): Command {
  command
    .option('--name <name>', 'name of the image in containerd; default: its reference')
    .option('--proxy <name>', "name of the store in containerd's configuration, as a proxy snapshotter", 'unpackd')
    .addHelpText('after', NOTES);
  return command.action(async (wanted: string, { name, platform, proxy }: Options) => {
    const config = configOf(command);
    const { UNPACK_CONTAINERD_SOCKET: socket, UNPACK_CONTAINERD_NAMESPACE: namespace } = config;
    const place = ownStorePlace(config, 'unpackd images register');
    const { openSnapshotter, openToRead } = await import('../snapshots/open.ts');
    const { connectContainerd } = await import('../grpc/client.ts');
    const { registerImage } = await import('../proxy/register.ts');
    // a wrong argument makes no store
    await (await openToRead(place)).close();
    const store = await openSnapshotter({ ...place, durable: false });
    const client = connectContainerd({ socket, namespace });
    try {
      const image = oneOf(imagesToRegister(await store.images(), wanted, platform, store.root));
      const using = { client, socket, snapshotter: proxy };
      const { names, layers } = await registerImage(store, image, name ?? nameFor(image, wanted), using);
      out.result({ registered: { names, namespace, snapshotter: proxy, layers } }, () => [
        `registered ${printable(names[0] ?? '')} in namespace ${namespace} of containerd, ${count(layers, 'layer')}`,
      ]);
    } finally {
      client.close();
      await store.close();
    }
  });
}

/**
 * As `findImages`. The image of a digest (`REPOSITORY@sha256:…`) can also be recorded under another repository, such as the address
 * in the bucket.
 */
function imagesToRegister(
  all: readonly ImageRecord[],
  wanted: string,
  platform: string | undefined,
  root: string,
): FoundImages<ImageRecord> {
  const named = nameWithDigest(wanted);
  const same = named === undefined ? [] : all.filter((image) => isImageWith(image, named.digest));
  const [first] = same;
  if (named === undefined || first === undefined || same.some((image) => isOfRepository(image, named.repository))) {
    return findImages(all, wanted, platform, root);
  }
  return findImages(same, first.reference, platform, root);
}

/** The reference of the image, unless it leads elsewhere than the name with a digest that was asked for. */
function nameFor(image: ImageRecord, wanted: string): string {
  const named = nameWithDigest(wanted);
  if (named === undefined) return image.reference;
  const { manifestDigest, indexDigest } = image;
  const leadsThere = (indexDigest ?? manifestDigest) === named.digest && isOfRepository(image, named.repository);
  return leadsThere ? image.reference : wanted;
}

/** The only image of a reference, or the one of this machine. @throws CliError USAGE if there are several others */
function oneOf({ reference, images }: FoundImages<ImageRecord>): ImageRecord {
  const [first, second] = images;
  const host = runsOn(hostPlatform()).map(formatPlatform);
  const own = second === undefined ? first : images.find(({ platform }) => host.includes(platform));
  if (own !== undefined) return own;
  const platforms = images.map(({ platform }) => platform || 'no platform').join(', ');
  throw new CliError('USAGE', `image ${shown(reference)} is there for ${platforms}: choose one with --platform`);
}
