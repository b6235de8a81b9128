import { existsSync } from 'node:fs';
import { Command } from 'commander';
import { shortDigest } from '../oci/digest.ts';
import { type Platform, parsePlatform } from '../oci/platform.ts';
import { listed } from '../oci/similar-names.ts';
import { s3Connections } from '../s3-settings.ts';
import { connectionFor } from '../source/bucket-endpoints.ts';
import type { BucketLayout } from '../source/source-spec.ts';
import { bytesText, durationText } from '../units.ts';
import { CliError } from './explain-error.ts';
import { layoutOption, parseImageArgument, platformsOf } from './image-argument.ts';
import { pushLines } from './job-view.ts';
import { registryAdvice } from './local-image.ts';
import { type Cli, LiveRegion } from './output.ts';
import { Pace } from './pace.ts';
import { configOf, S3_SETTINGS, takesSettings } from './settings.ts';

const EXAMPLES = `
Examples:
  unpackd push ./layout:app s3://images/team/app:1.0
  docker save alpine:3.20 > alpine.tar && unpackd push alpine.tar s3://images/alpine:3.20
  unpackd push ./layout s3://registry:3.20 --layout distribution --repository library/alpine
  unpackd push ./layout s3://blobs --layout keys --template 'blobs/{algorithm}/{hex}'`;

interface PushFlags {
  readonly layout: BucketLayout['kind'];
  readonly repository?: string;
  readonly template?: string;
  readonly image?: string;
  readonly platform?: readonly string[];
}

/** `unpackd push`: copies an image into a bucket. */
export function pushCommand({ out, signal }: Cli): Command {
  const command = new Command('push')
    .description(
      'Copies an image into a bucket. The tag is written last, so a reader never finds half an image. Blobs that the bucket has ' +
        'are not sent again.\nSOURCE is an OCI image layout (a folder or a tar) or an archive of docker save, followed by :NAME or ' +
        '@DIGEST if it has several images. A tar can be compressed with gzip, zstd or xz. TARGET is s3://BUCKET/PREFIX[:TAG].',
    )
    .argument('<source>')
    .argument('<target>')
    .addOption(layoutOption())
    .option('--repository <name>', 'for --layout distribution: the repository to write to, for example library/alpine')
    .option('--template <key>', 'for --layout keys: the key of a blob, for example blobs/{algorithm}/{hex}')
    .option('--image <name>', 'the image of SOURCE to push, by name, tag or digest; the same as SOURCE:NAME')
    .option(
      '--platform <platform...>',
      'os/architecture[/variant]: push only these images of an index; the index itself stays unchanged (default: all)',
    )
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES);
  takesSettings(command, S3_SETTINGS);
  return command.action(async (source: string, target: string, flags: PushFlags) => {
    const config = configOf(command);
    const { path, name } = sourceOf(source);
    const { place, target: named } = parseImageArgument(target);
    if (place.kind !== 's3')
      throw new CliError('USAGE', `${JSON.stringify(target)} is not a bucket: write s3://BUCKET/PREFIX[:TAG]`);
    if (named?.kind === 'manifest')
      throw new CliError('USAGE', `${target} names a digest, but the image decides that: give a tag or nothing`);
    const { pushImage } = await import('../push/push.ts');
    const started = performance.now();
    const region = new LiveRegion(out.live);
    const pace = new Pace();
    const pushed = await pushImage({
      path,
      image: flags.image ?? name,
      bucket: place.bucket,
      prefix: place.prefix,
      layout: layoutOf(flags),
      tag: named?.tag,
      platforms: platformsFor(flags.platform),
      connection: connectionFor(s3Connections(config), place.bucket),
      signal,
      onProgress: (progress) => {
        pace.add(progress.sent);
        region.draw(pushLines(progress, pace.speed(progress.total - progress.skipped), region.width));
      },
    }).finally(() => region.clear());
    const { tag, digest, uploaded, skipped, leftOut } = pushed;
    const address = `s3://${place.bucket}${place.prefix === '' ? '' : `/${place.prefix}`}`;
    out.result({ bucket: place.bucket, prefix: place.prefix, layout: flags.layout, ...pushed }, () => [
      `${address}${tag === undefined ? `@${digest}` : `:${tag}  ${shortDigest(digest)}`}`,
      `sent ${uploaded.count} blobs (${bytesText(uploaded.bytes)}) in ${durationText(performance.now() - started)}, ${skipped.count} existed`,
      ...(leftOut.length === 0 ? [] : [`left out, although the image lists them: ${listed(leftOut)}`]),
    ]);
  });
}

function sourceOf(text: string): { path: string; name?: string } {
  const { place, target } = parseImageArgument(text);
  if (place.kind !== 'folder')
    throw new CliError('USAGE', `${JSON.stringify(text)} cannot be pushed: give a folder or a file`);
  const registry = existsSync(place.path) ? undefined : registryAdvice(text);
  if (registry !== undefined) throw new CliError('USAGE', registry);
  if (target === undefined) return { path: place.path };
  return { path: place.path, name: target.kind === 'tag' ? target.tag : target.digest };
}

function platformsFor(names: readonly string[] | undefined): Platform[] | undefined {
  const platforms = names === undefined ? 'all' : platformsOf(names);
  return platforms === 'all' ? undefined : platforms.map(parsePlatform);
}

function layoutOf({ layout, repository, template }: PushFlags): BucketLayout {
  if (layout === 'oci') return { kind: 'oci' };
  if (layout === 'distribution') {
    if (repository === undefined)
      throw new CliError('USAGE', '--layout distribution needs --repository, for example library/alpine');
    return { kind: 'distribution', repository };
  }
  if (template === undefined)
    throw new CliError('USAGE', "--layout keys needs --template, for example 'blobs/{algorithm}/{hex}'");
  return { kind: 'keys', template };
}
