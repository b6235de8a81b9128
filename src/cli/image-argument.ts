import { existsSync } from 'node:fs';
import { type Command, Option } from 'commander';
import type { ImageRequest, ImageTarget } from '../image/request.ts';
import { blobDigest, isDigest } from '../oci/digest.ts';
import { parsePlatform } from '../oci/platform.ts';
import type { Payload } from '../queue/formats.ts';
import { CliError } from './explain-error.ts';
import { type ImageArgument, parseLocalArgument, registryAdvice } from './local-image.ts';

/** The image argument and its options, for `apply`, `enqueue` and `push`. */

/**
 * Reads `s3://BUCKET[/PREFIX]` or a path, then `:TAG` or `@DIGEST`.
 * @throws CliError USAGE
 */
export function parseImageArgument(text: string): ImageArgument {
  const scheme = /^([a-z0-9+.-]+):\/\//i.exec(text)?.[1];
  if (scheme === undefined) return parseLocalArgument(text);
  if (scheme.toLowerCase() !== 's3') {
    throw new CliError(
      'USAGE',
      `${JSON.stringify(text)}: ${scheme}:// cannot be read; give s3://BUCKET/PREFIX:TAG or a folder with an OCI layout`,
    );
  }
  const at = text.lastIndexOf('@');
  if (at !== -1) {
    const digest = text.slice(at + 1);
    if (isDigest(digest))
      return { place: bucketOf(text.slice(0, at), text), target: { kind: 'manifest', digest: blobDigest(digest) } };
    throw new CliError(
      'USAGE',
      `${JSON.stringify(digest)} in ${JSON.stringify(text)} is not a digest: write @sha256:…`,
    );
  }
  const colon = /:([^:/]*)$/.exec(text);
  if (colon === null) return { place: bucketOf(text, text) };
  const tag = colon[1] ?? '';
  if (tag === '')
    throw new CliError('USAGE', `${JSON.stringify(text)} has no tag after the colon: write s3://BUCKET/PREFIX:TAG`);
  return { place: bucketOf(text.slice(0, colon.index), text), target: { kind: 'tag', tag } };
}

function bucketOf(text: string, whole: string): ImageArgument['place'] {
  const [bucket = '', ...prefix] = text.slice('s3://'.length).split('/');
  if (bucket === '')
    throw new CliError('USAGE', `${JSON.stringify(whole)} has no bucket: write s3://BUCKET/PREFIX:TAG`);
  return { kind: 's3', bucket, prefix: prefix.join('/') };
}

/** The options that describe an image, beside the image argument. */
export interface ImageOptions {
  readonly layout: 'oci' | 'distribution' | 'keys';
  readonly repository?: string;
  readonly template?: string;
  readonly image?: string;
  readonly platform?: readonly string[];
  readonly label?: Readonly<Record<string, string>>;
}

/** `--layout`, for the commands that read from buckets or write to them. */
export function layoutOption(): Option {
  const choices = ['oci', 'distribution', 'keys'];
  return new Option('--layout <layout>', 'layout of the bucket').choices(choices).default('oci');
}

export function takesImageOptions(command: Command): Command {
  return command
    .addOption(layoutOption())
    .option('--repository <name>', 'for --layout distribution: the repository of the tag, for example library/alpine')
    .option('--template <key>', 'for --layout keys: the key of a blob, for example blobs/{algorithm}/{hex}')
    .option(
      '--image <reference>',
      'the name of the image, which is recorded and never fetched from; in containerd, the image has this name',
    )
    .option(
      '--platform <platform...>',
      'os/architecture[/variant], or all (default: the platform of the machine that unpacks)',
    )
    .option('--label <key=value...>', 'labels to set on the snapshots', collectLabel);
}

function collectLabel(text: string, earlier: Record<string, string> = {}): Record<string, string> {
  const equals = text.indexOf('=');
  if (equals < 1) throw new CliError('USAGE', `--label ${JSON.stringify(text)}: write key=value`);
  return { ...earlier, [text.slice(0, equals)]: text.slice(equals + 1) };
}

/** The payload of a job for an image in a bucket. It is not checked here; `checkPayload` does that. @throws CliError USAGE */
export function payloadOf(argument: string, options: ImageOptions): Payload {
  const { place, target } = parseImageArgument(argument);
  if (place.kind !== 's3') {
    throw new CliError(
      'USAGE',
      (existsSync(place.path) ? undefined : registryAdvice(argument)) ??
        `${JSON.stringify(argument)} is not in a bucket, and workers read from buckets only: push it to one first (unpackd push), or unpack it here (unpackd apply)`,
    );
  }
  if (target === undefined)
    throw new CliError('USAGE', `${argument} has no tag and no digest: write ${argument}:TAG or ${argument}@sha256:…`);
  return {
    version: 1,
    image: options.image ?? imageNameOf(argument, options),
    source: {
      bucket: place.bucket,
      ...(place.prefix === '' ? {} : { prefix: place.prefix }),
      layout: options.layout,
      ...(options.repository === undefined ? {} : { repository: options.repository }),
      ...(options.template === undefined ? {} : { template: options.template }),
    },
    ...(target.kind === 'tag' ? { tag: target.tag } : { manifest: target.digest }),
    ...(options.platform === undefined ? {} : { platforms: platformsOf(options.platform) }),
    ...(options.label === undefined ? {} : { labels: options.label }),
  };
}

/** The request for an image in a local folder. @throws CliError USAGE */
export function requestOf(target: ImageTarget, options: ImageOptions): ImageRequest {
  const platforms = options.platform === undefined ? undefined : platformsOf(options.platform);
  return {
    target,
    ...(platforms === undefined ? {} : { platforms: platforms === 'all' ? 'all' : platforms.map(parsePlatform) }),
  };
}

/** @throws CliError USAGE */
export function platformsOf(names: readonly string[]): 'all' | string[] {
  if (!names.includes('all')) return [...names];
  if (names.length > 1)
    throw new CliError('USAGE', '--platform all excludes every other platform: give either all or names');
  return 'all';
}

/** The image name to record: the repository and tag, if a repository is given, else the address in the bucket. */
function imageNameOf(argument: string, { repository }: ImageOptions): string {
  const plain = argument.replace(/^s3:\/\//, '');
  return repository === undefined ? plain : `${repository}${/(@[^@]*|:[^:/]*)$/.exec(plain)?.[0] ?? ''}`;
}
